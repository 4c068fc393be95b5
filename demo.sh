#!/bin/sh
# The main job end to end; `make demo` sets up what it needs and calls this.
#   DATASET   synthetic | online_retail | movielens_1m_half | movielens_100k
#   DATA_DIR  folder with the published data sets (not for synthetic)
#   WORK      where everything is written          PORT  of the server, on loopback
set -eu

run() {
  printf '\n\033[1m$ %s\033[0m\n' "$*"
  "$@"
}

case $DATASET in
  synthetic)
    run guim prepare synthetic --output "$WORK/input" --users 3000 --items 1500
    set -- --set training.epochs=12
    ;;
  *)
    [ -n "$DATA_DIR" ] || { echo "make demo DATASET=$DATASET needs DATA_DIR=<folder>" >&2; exit 2; }
    run guim prepare "$DATASET" --data-dir "$DATA_DIR" --output "$WORK/input"
    set -- --set training.epochs=20
    ;;
esac

run guim build-dataset --mapping "$WORK/input/mapping.json" --output "$WORK/dataset"
run guim train --dataset "$WORK/dataset" --run "$WORK/run" --set window.target_days=30 "$@"
run guim export --run "$WORK/run" --models "$WORK/models"
run guim embed-items --model "$WORK/models/item_encoder" --dataset "$WORK/dataset" \
  --output "$WORK/items.parquet"
run guim index --dataset "$WORK/dataset" --models "$WORK/models" --vectors "$WORK/items.parquet"

printf '\n\033[1m$ guim serve --models %s --port %s &\033[0m\n' "$WORK/models" "$PORT"
guim serve --models "$WORK/models" --port "$PORT" >"$WORK/serve.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until grep -q ready "$WORK/serve.log"; do
  kill -0 $server 2>/dev/null || { cat "$WORK/serve.log" >&2; exit 1; }
  sleep 0.2
done
cat "$WORK/serve.log"
run guim recommend --dataset "$WORK/dataset" --random 2 --k 12 --exclude-seen \
  --server "127.0.0.1:$PORT"
kill $server
wait $server || true

run guim evaluate --dataset "$WORK/dataset" --models "$WORK/models" --run "$WORK/run" \
  --output "$WORK/report"
printf '\nThe report: %s/report/report.html\n' "$WORK"
