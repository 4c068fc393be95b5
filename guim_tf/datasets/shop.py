"""The planted world of the synthetic shop: items, users and purchases as plain arrays.

Interests are clusters of items over several categories. A user holds one to four of them, some
only for part of the time; within an interest a user prefers some of its categories; within a
category items differ in popularity, some are a fashion of a few weeks, some are launched late.
Everything is drawn from seeded generators and vectorised over users or purchases.
"""

import dataclasses

import numpy as np

DAY = 86_400
START = 1_672_531_200  # 2023-01-01 UTC
CATEGORIES_PER_INTEREST = 3
SLOTS = 4  # interests a user may hold
PURCHASE_SIGMA = 1.0  # of the log-normal of purchases a user: quantiles as in Table 1
ITEMS_PER_ORDER = 3
REPEAT_SHARE = 0.2
NOISE_SHARE = 0.05  # purchases outside of the user's interests
FASHION_SHARE, FASHION_DAYS, FASHION_WEIGHT = 0.4, 35.0, 10.0
LATE_SHARE = 0.2
CATEGORY_TASTE = np.array([0.65, 0.25, 0.10])
CHILD_SHARE = 14 / 30  # of the interests; each belongs to a gender and an age group
AGE_GROUPS = 7


@dataclasses.dataclass(frozen=True)
class Items:
    """Item i of category `category[i]`; a category's interest is `category // 3`."""

    category: np.ndarray  # int64 [items]
    weight: np.ndarray  # [items], popularity while in full fashion
    launch: np.ndarray  # day of the first possible sale, [items]
    peak: np.ndarray  # day of a fashion's height, NaN for an item that is none, [items]
    order: np.ndarray  # items sorted by category, [items]
    cumulative: np.ndarray  # running sum of weights in that order, [items + 1]
    first: np.ndarray  # where each category begins in that order, [categories + 1]

    @property
    def interest(self) -> np.ndarray:
        return self.category // CATEGORIES_PER_INTEREST


@dataclasses.dataclass(frozen=True)
class Users:
    """Up to four interests a user, each with a share and a span of days."""

    interest: np.ndarray  # int64 [users, SLOTS], -1 for none
    share: np.ndarray  # [users, SLOTS], 0 for none
    begin: np.ndarray  # day, [users, SLOTS]
    end: np.ndarray  # day, [users, SLOTS]
    taste: np.ndarray  # order of an interest's categories for the user, [users, SLOTS, 3]
    joined: np.ndarray  # day, [users]
    purchases: np.ndarray  # int64 [users]


@dataclasses.dataclass(frozen=True)
class Purchases:
    """One entry a purchase, by user."""

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray  # seconds


def make_items(rng: np.random.Generator, *, items: int, interests: int, days: int) -> Items:
    """Items of all categories (each category gets one before any gets two)."""
    categories = interests * CATEGORIES_PER_INTEREST
    category = rng.permutation(np.arange(items) % categories)
    weight = rng.lognormal(0.0, 1.0, items)
    launch = np.where(rng.random(items) < LATE_SHARE, rng.uniform(0, days, items), 0.0)
    fashion = rng.random(items) < FASHION_SHARE
    peak = np.where(fashion, rng.uniform(0, 1.05 * days, items), np.nan)
    weight = np.where(fashion, weight * FASHION_WEIGHT, weight)  # short, but high
    order = np.argsort(category, kind="stable")
    return Items(
        category=category,
        weight=weight,
        launch=launch,
        peak=peak,
        order=order,
        cumulative=np.concatenate([[0.0], np.cumsum(weight[order])]),
        first=np.searchsorted(category[order], np.arange(categories + 1)),
    )


def make_users(
    rng: np.random.Generator, *, users: int, interests: int, days: int, purchases_per_user: float
) -> Users:
    """Users with one to four distinct interests; two in five replace one of them on the way."""
    popularity = 1.0 / np.arange(1, interests + 1) ** 0.5
    popularity = np.roll(popularity, interests // 2)
    keys = rng.exponential(size=(users, interests)) / popularity  # weighted, without replacement
    slots = min(SLOTS, interests)
    chosen = np.argsort(keys, axis=1)[:, :slots].astype(np.int64)
    chosen = np.pad(chosen, ((0, 0), (0, SLOTS - slots)), constant_values=-1)
    held = rng.choice(SLOTS, size=users, p=[0.15, 0.30, 0.30, 0.25]) + 1
    held = np.minimum(held, slots)
    interest = np.where(np.arange(SLOTS) < held[:, None], chosen, -1)
    share = np.where(interest >= 0, rng.gamma(2.0, size=(users, SLOTS)) + 0.3, 0.0)
    begin, end = np.zeros((users, SLOTS)), np.full((users, SLOTS), float(days))
    drifting = (rng.random(users) < 0.4) & (held >= 2)
    turn = rng.uniform(0.25, 0.95, users) * days
    last = held - 1
    rows = np.flatnonzero(drifting)
    begin[rows, last[rows]] = turn[rows]  # the last interest comes
    leaves = rows[held[rows] >= 3]
    end[leaves, last[leaves] - 1] = turn[leaves]  # and the one before it goes
    median = purchases_per_user * np.exp(-(PURCHASE_SIGMA**2) / 2)
    purchases = np.maximum(1, rng.lognormal(np.log(median), PURCHASE_SIGMA, users)).astype(int)
    joined = np.where(rng.random(users) < 0.3, rng.uniform(0, 0.9 * days, users), 0.0)
    taste = np.argsort(rng.random((users, SLOTS, CATEGORIES_PER_INTEREST)), axis=2)
    return Users(interest, share, begin, end, taste, joined, purchases)


def make_purchases(
    rng: np.random.Generator, *, users: Users, items: Items, interests: int, days: int
) -> Purchases:
    """All purchases of the users, by user and time."""
    owner = np.repeat(np.arange(len(users.purchases)), users.purchases)
    begins = np.cumsum(users.purchases) - users.purchases
    within = np.arange(len(owner)) - begins[owner]
    day, order = _times(rng, users.joined[owner], owner, within, days)
    slot = _slots(rng, users, owner, order, day, interests)
    interest = users.interest[owner, slot]
    noise = rng.random(len(owner)) < NOISE_SHARE
    interest = np.where(noise, rng.integers(0, interests, len(owner)), interest)
    choice = rng.choice(CATEGORIES_PER_INTEREST, size=len(owner), p=CATEGORY_TASTE)
    category = interest * CATEGORIES_PER_INTEREST + users.taste[owner, slot, choice]
    item = _draw_items(rng, items, category, day)
    item = item[_repeats(rng, begins[owner])]
    timestamp = START + (day * DAY).astype(np.int64)
    return Purchases(owner, item, timestamp)


def season(day: np.ndarray) -> np.ndarray:
    """Trade by day: twice as much in December as in July, more at weekends."""
    year = 1.0 + 0.33 * np.cos(2 * np.pi * (day - 350) / 365)
    return year * np.where(np.floor(day) % 7 >= 5, 1.3, 1.0)


def interest_season(interest: np.ndarray, day: np.ndarray, interests: int) -> np.ndarray:
    """Every third interest has a time of the year."""
    wave = 1.0 + 0.8 * np.cos(2 * np.pi * (day / 365 - interest / max(interests, 1)))
    return np.where(interest % 3 == 0, wave, 1.0)


def fashion(items: Items, item: np.ndarray, day: np.ndarray) -> np.ndarray:
    """How much of its full weight an item has on a day: in [0, 1]."""
    peak = items.peak[item]
    bump = 0.03 + 0.97 * np.exp(-(((day - peak) / FASHION_DAYS) ** 2))
    return np.where(day < items.launch[item], 0.0, np.where(np.isnan(peak), 1.0, bump))


def child_interests(interests: int) -> int:
    """The first so many interests belong to a child."""
    return round(interests * CHILD_SHARE)


def child_of(interest: int, interests: int) -> tuple[int, int]:
    """Age group (0..6) and gender (0, 1) of the child that an interest belongs to."""
    return interest * AGE_GROUPS // max(child_interests(interests), 1), interest % 2


def child_labels(
    rng: np.random.Generator, users: Users, *, interests: int, days: int
) -> np.ndarray:
    """has_child, child_gender (0, 1), age_group (0..6) `[users, 3]`; -1 where there is no child.

    They follow from the strongest child interest at the end of the log, with some noise.
    """
    child = child_interests(interests)
    share = np.where((users.interest >= 0) & (users.interest < child), users.share, 0.0)
    share = np.where(users.end >= days, share, share * 0.2)
    strongest = users.interest[np.arange(len(share)), share.argmax(axis=1)]
    plain = share.max(axis=1) <= 0
    has_child = rng.random(len(share)) < np.where(plain, 0.08, 0.92)
    # The interest of another child for every tenth, and for those without a child interest.
    other = rng.integers(0, max(child, 1), len(share))
    strongest = np.where(plain | (rng.random(len(share)) < 0.1), other, strongest)
    gender = strongest % 2
    age = strongest * AGE_GROUPS // max(child, 1)
    return np.stack([has_child, *(np.where(has_child, x, -1) for x in (gender, age))], axis=1)


# ------------------------------------------------------------------------------- drawing


def _times(
    rng: np.random.Generator, joined: np.ndarray, owner: np.ndarray, within: np.ndarray, days: int
) -> tuple[np.ndarray, np.ndarray]:
    """Day (with fraction) and order number of each purchase, in time order for each user.

    A user's purchases come in orders of about three, placed by the season's density.
    """
    grid = np.arange(days + 1, dtype=float)
    density = np.concatenate([[0.0], np.cumsum(season(grid[:-1]))])
    density /= density[-1]
    low = np.interp(joined, grid, density)
    start = rng.random(len(owner)) < 1.0 / ITEMS_PER_ORDER
    start |= within == 0
    order = np.cumsum(start) - 1
    draws = rng.random(len(owner))[start][order]  # one draw an order
    day = np.interp(low + draws * (1.0 - low), density, grid)
    hour = rng.normal(15.0, 4.0, len(owner))[start][order]
    seconds = np.clip(hour, 0.0, 23.9) * 3600 + rng.integers(0, 300, len(owner))
    day = np.minimum(np.floor(day), days - 1) + seconds / DAY
    rows = np.lexsort((day, owner))
    return day[rows], order[rows]


def _slots(
    rng: np.random.Generator,
    users: Users,
    owner: np.ndarray,
    order: np.ndarray,
    day: np.ndarray,
    interests: int,
) -> np.ndarray:
    """Which of the user's interests each purchase serves; most of an order serves one."""
    interest = users.interest[owner]
    active = (users.begin[owner] <= day[:, None]) & (day[:, None] < users.end[owner])
    weight = users.share[owner] * active * interest_season(interest, day[:, None], interests)
    running = np.cumsum(weight, axis=1)
    draw = rng.random(len(owner))
    shared = rng.random(order.max(initial=0) + 1)[order]
    draw = np.where(rng.random(len(owner)) < 0.6, shared, draw) * running[:, -1]
    return (running <= draw[:, None]).sum(axis=1).clip(0, SLOTS - 1)


def _draw_items(
    rng: np.random.Generator, items: Items, category: np.ndarray, day: np.ndarray
) -> np.ndarray:
    """An item of each category by weight, accepted with the chance of its fashion that day."""
    item = np.empty(len(category), np.int64)
    waiting = np.arange(len(category))
    for _ in range(40):
        wanted = category[waiting]
        low = items.cumulative[items.first[wanted]]
        high = items.cumulative[items.first[wanted + 1]]
        draw = low + rng.random(len(waiting)) * (high - low)
        place = np.searchsorted(items.cumulative, draw, side="right") - 1
        place = np.clip(place, items.first[wanted], items.first[wanted + 1] - 1)
        item[waiting] = items.order[place]
        accepted = rng.random(len(waiting)) < fashion(items, item[waiting], day[waiting])
        waiting = waiting[~accepted]
        if not len(waiting):
            break
    return item


def _repeats(rng: np.random.Generator, begin: np.ndarray) -> np.ndarray:
    """For each purchase the one whose item it takes: itself, or an earlier one of the user."""
    place = np.arange(len(begin))
    earlier = begin + (rng.random(len(begin)) * (place - begin)).astype(np.int64)
    origin = np.where((rng.random(len(begin)) < REPEAT_SHARE) & (place > begin), earlier, place)
    while True:  # a repeat of a repeat ends at the first purchase
        further = origin[origin]
        if np.array_equal(further, origin):
            return origin
        origin = further
