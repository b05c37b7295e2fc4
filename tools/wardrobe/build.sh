#!/usr/bin/env bash
# Rebuilds the embedded world from Fashion-MNIST. Every unit resumes from its checkpoint; running this again continues.
#
#   bash tools/wardrobe/build.sh             everything, packed and measured
#   bash tools/wardrobe/build.sh TWIN ...    these denoisers only, on the autoencoder and CLIP that ship; each as a folder under
#                                            $WARDROBE_BUILD/pipelines, which an audit takes as twin:FOLDER; the package stays as it is
#
#   FASHION_MNIST   folder of the four idx.gz files (default: where Debian's dataset-fashion-mnist puts them)
#   WARDROBE_BUILD  where checkpoints and curves go (default: build/wardrobe)
#   WORKERS         one-thread trainings side by side (default: 2)
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 WARDROBE_BUILD=${WARDROBE_BUILD:-build/wardrobe}
workers=${WORKERS:-2}
mkdir -p "$WARDROBE_BUILD"

unit() { # NAME SCRIPT [ARGUMENT]: skipped once done
  local done="$WARDROBE_BUILD/$1.done"
  if [ ! -e "$done" ]; then
    "$python" "tools/wardrobe/$2" "${@:3}" >>"$WARDROBE_BUILD/$1.log" 2>&1 && touch "$done"
  fi
}
shipped() { # TABLE of world.py: what ships of it, a name a line
  "$python" -c "import sys; sys.path.insert(0, 'tools/wardrobe'); import world; print('\n'.join(n for n in world.SHIPPED if n in world.$1))"
}
export -f unit
export python

if [ $# -gt 0 ]; then
  unit restore restore.py
  unit latents latents.py
  printf '%s\n' "$@" | xargs -P "$workers" -I{} bash -c '
    case {} in wardrobe-flow*) script=flow.py ;; wardrobe-classes*) script=classes.py ;; *) script=denoiser.py ;; esac
    unit {} "$script" {}'
  "$python" tools/wardrobe/pack.py "$@"
  exit
fi

printf '%s\n' "vae autoencoder.py" "clip contrastive.py" "judge-verify judges.py verify" "judge-select judges.py select" |
  xargs -P "$workers" -I{} bash -c 'unit {}'
unit latents latents.py
shipped DENOISERS |
  xargs -P "$workers" -I{} bash -c 'unit {} denoiser.py {}'
shipped CLASS_MODELS |
  xargs -P "$workers" -I{} bash -c 'unit {} classes.py {}'
unit wardrobe-flow flow.py wardrobe-flow # its twins are given its T5
shipped FLOW_MODELS |
  xargs -P "$workers" -I{} bash -c 'unit {} flow.py {}'
unit pack pack.py
unit measure measure.py
