"""A grid to fill in."""

TEMPLATE = """\
# A grid: every combination of the axes below is an audit in a folder of its own. Run, resume and lengthen it by the same command:
#   vestige grid FILE.toml --dry-run     what it would take
#   vestige grid FILE.toml               run what is missing
about = "What it is for, in a sentence."

[axes]
models = ["wardrobe"]
concepts = ["sneaker", "bag"]      # built-in names, or concept files
seeds = [0, 1]                     # of the edits
suites = ["quick"]                 # names, or suite files
attacks = ["all"]                  # "all" of the suite's, "memora" alone, "memora+direct"; each entry is a point of the axis

# One table an unlearner. A list among its settings is an axis: this one stands for two.
[[unlearners]]
method = "esd"
settings = { strength = [1.0, 3.0] }

[[unlearners]]
method = "uce"

# Settings of attacks, for every cell that runs the attack. A list is an axis: here each cell with MemoRa stands for three.
# [attacks]
# memora.rank = [1, 4, 16]
# automemora.w = [0.5, 1.5]        # where axes.attacks names it, e.g. "memora+automemora"

# [[unlearners]]                   # a model as it is
# method = "none"

# [[unlearners]]                   # an edit that is there already
# edit = "edit.safetensors"
# name = "mine"                    # what it is called in filters and tables

# Requests one after another, with every unlearner above that is a method; fields as `vestige continual` has them.
# [[sequences]]
# requests = ["bag", "dress"]
# modes = ["sequential", "independent"]
# attacks = ["memora"]
# memory = 200

[common]                           # what all audits share, as `vestige audit` has it
# references = "shipped"
# control = "auto"
# settings = { "memora.rank" = 8 }

# Cells that are left out; [[only]] keeps some and drops the others. A value may be a list of several; `swept` is a combination of
# attacks' settings, "memora.rank=1".
[[without]]
concept = "bag"
unlearner = "esd,strength=3.0"
"""
