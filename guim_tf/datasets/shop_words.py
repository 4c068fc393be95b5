"""Titles of the synthetic shop: readable words that tell an item's interest and category."""

from guim_tf.datasets import shop

GENDERS = ("girl", "boy")
AGES = ("newborn", "crawling", "toddler", "nursery", "preschool", "school", "tween")
CHILD_NOUNS = ("clothes", "toys", "books")
HOBBIES = (
    ("camping", ("tent", "lantern", "stove")),
    ("coffee", ("beans", "grinder", "mug")),
    ("garden", ("seeds", "spade", "planter")),
    ("running", ("shoes", "shorts", "bottle")),
    ("baking", ("tin", "whisk", "flour")),
    ("cycling", ("helmet", "pump", "gloves")),
    ("photo", ("tripod", "lens", "album")),
    ("cat", ("litter", "scratcher", "treats")),
    ("dog", ("leash", "bed", "biscuits")),
    ("office", ("chair", "lamp", "notebook")),
    ("skincare", ("cream", "serum", "mask")),
    ("guitar", ("strings", "strap", "tuner")),
    ("fishing", ("rod", "reel", "lure")),
    ("knitting", ("yarn", "needles", "pattern")),
    ("gaming", ("headset", "keyboard", "console")),
    ("kitchen", ("knife", "pan", "towel")),
)
STYLES = (
    *("red", "blue", "green", "white", "black", "small", "large", "classic", "modern", "soft"),
    *("light", "sturdy", "striped", "plain", "vintage", "folding", "travel", "deluxe", "everyday"),
)
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def title(item: int, *, category: int, interests: int) -> str:
    """Two styles, the interest, the noun of the category and a model name."""
    interest, noun = divmod(category, shop.CATEGORIES_PER_INTEREST)
    child = shop.child_interests(interests)
    if interest < child:
        age, gender = shop.child_of(interest, interests)
        name = f"{AGES[age]} {GENDERS[gender]}"
        words, copy = CHILD_NOUNS, (interest - -(-age * child // shop.AGE_GROUPS)) // 2
    else:
        copy, hobby = divmod(interest - child, len(HOBBIES))
        name, words = HOBBIES[hobby]
    if copy:  # more interests than names: the name gets a word of its own
        name = f"{word(interest)} {name}"
    first = item % len(STYLES)
    second = (first + 1 + item // len(STYLES) % (len(STYLES) - 1)) % len(STYLES)  # another one
    return f"{STYLES[first]} {STYLES[second]} {name} {words[noun]} {word(item % 4225)}"


def word(number: int) -> str:
    """A pronounceable word, another one for each number."""
    syllables: list[str] = []
    while number or len(syllables) < 2:
        number, digit = divmod(number, len(_CONSONANTS) * len(_VOWELS))
        syllables.append(_CONSONANTS[digit // len(_VOWELS)] + _VOWELS[digit % len(_VOWELS)])
    return "".join(syllables)
