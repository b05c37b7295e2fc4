#!/usr/bin/env bash
# Builds a world. Every unit resumes from its checkpoint; running this again continues.
#
#   bash tools/worlds/build.sh WORLD             everything, packed and measured
#   bash tools/worlds/build.sh WORLD MODEL ...   the base and these denoisers only; running it again with others packs more
#
#   WORLDS_BUILD  where the world's folder goes (default: build)
#   WORKERS       one-thread trainings side by side (default: 2)
set -euo pipefail
cd "$(dirname "$0")/../.."
export world=${1:?which world? a file of facts in tools/worlds, such as letters} python=${PYTHON:-.venv/bin/python}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 WORLDS_BUILD=${WORLDS_BUILD:-build} PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}tools
workers=${WORKERS:-2}
mkdir -p "$WORLDS_BUILD/$world"

unit() { # NAME MODULE [ARGUMENT]: skipped once done
  local done="$WORLDS_BUILD/$world/$1.done"
  if [ ! -e "$done" ]; then
    "$python" -m "worlds.$2" "$world" "${@:3}" >>"$WORLDS_BUILD/$world/$1.log" 2>&1 && touch "$done"
  fi
}
export -f unit

unit drawings pictures
printf '%s\n' "vae autoencoder" "text text" | xargs -P "$workers" -I{} bash -c 'unit {}'
unit latents latents
denoisers=$("$python" -c 'import sys; from worlds.world import load; print("\n".join(load(sys.argv[1]).denoisers))' "$world")
unit "$(head -1 <<<"$denoisers")" denoiser "$(head -1 <<<"$denoisers")"
printf '%s\n' "judge-verify judges verify" "judge-select judges select" | xargs -P "$workers" -I{} bash -c 'unit {}'
if [ $# -gt 1 ]; then twins=$(printf '%s\n' "${@:2}" | grep -vx "$world" || true); else twins=$(tail -n +2 <<<"$denoisers"); fi
[ -z "$twins" ] || xargs -P "$workers" -I{} bash -c 'unit {} denoiser {}' <<<"$twins"
"$python" -m worlds.pack "$world"
"$python" -m worlds.measure "$world"
