"""The world `letters`: 24 capital letters from some hundred families of free fonts, in seven styles; many drawings a class.

A development world: rates, thresholds and constants may be chosen on it (README.md).
"""

from __future__ import annotations

from pathlib import Path

from worlds import sources, styles
from worlds.glyphs import glyphs
from worlds.world import Denoiser, Drawings, Moves, Near, World

# The words that spell letters out on the radio. I and O are left out: a bar and a ring are other letters in other fonts.
WORDS = """
    alfa bravo charlie delta echo foxtrot golf hotel juliett kilo lima mike november papa quebec romeo sierra tango uniform victor whiskey
    xray yankee zulu
"""
LETTERS = {word[0].upper(): word for word in WORDS.split()}
PROXY = "four"
STYLES = ("photo", "neon", "watercolor", "blueprint", "woodcut", "stripes", "sunset")
PROXY_STYLE = "halftone"
PACKAGES = """
    aenigma 3270 cardo clear-sans comic-neue hermit dkg-handwriting essays1743 adf-accanthis adf-baskervald adf-berenis adf-gillius
    adf-ikarius adf-irianis adf-libris adf-mekanus adf-oldania adf-romande adf-solothurn adf-switzera adf-tribun adf-universalis
    adf-verana agave allerta anonymous-pro apropal arapey averia-gwf averia-sans-gwf averia-serif-gwf b612 bajaderka bebas-neue
    beteckna breip bwht cabin cabinsketch cantarell century-catalogue comfortaa compagnon courier-prime crosextra-caladea
    crosextra-carlito dancingscript dejavu-core dejavu-extra dosis dustin ebgaramond ecolier-court elstob engadget eurofurence f500
    fantasma fantasque-sans fanwood femkeklaver ferrite-core firacode freefont-ttf georgewilliams gfs-artemisia gfs-didot
    gfs-neohellenic gnutypewriter go goudybookletter havana humor-sans inconsolata isabella jetbrains-mono junction junicode jura
    karla kaushanscript klaudia-berenika kristi lato le-murmure league-mono league-spartan leckerli-one levien-museum liberation2
    lindenhill linuxlibertine lobster lobstertwo manrope millimetre monofur monoid oldstandard open-sans opendin opendyslexic okolaks
    osifont paratype play prociono quattrocento quicksand radisnoir roadgeek roboto-unhinted roboto-slab routed-gothic rufscript
    sil-andika sil-gentium-basic sjfonts solide-mirage sora staypuft summersby tiresias tomsontalks tuffy ubuntu-title urw-base35
    vollkorn yanone-kaffeesatz texgyre lmodern hack inter noto-mono sixtyfour amiga babelstone-modern blankenburg cherrybomb
    gotico-antiqua joscelyn
"""


def fetch(folder: Path) -> None:
    sources.debian([f"fonts-{name}" for name in PACKAGES.split()], folder)


def source(folder: Path) -> Drawings:
    return glyphs(folder, [*LETTERS, "4"])


WORLD = World(
    name="letters",
    objects=tuple(LETTERS.values()),
    styles=STYLES,
    proxy=PROXY,
    proxy_style=PROXY_STYLE,
    renderers={name: styles.of_one(getattr(styles, name)) for name in (*STYLES, PROXY_STYLE)},
    source=source,
    fetch=fetch,
    denoisers={
        "letters": Denoiser((), 101),
        "letters-never-kilo": Denoiser(("kilo",), 102),
        "letters-never-golf": Denoiser(("golf",), 103),
        "letters-never-golf-2": Denoiser(("golf",), 104),
        "letters-never-sierra": Denoiser(("sierra",), 105),
        "letters-never-sierra-2": Denoiser(("sierra",), 106),
        "letters-never-sierra-3": Denoiser(("sierra",), 107),
        "letters-never-neon": Denoiser(("neon",), 108),
        "letters-never-neon-2": Denoiser(("neon",), 109),
    },
    concepts={
        "golf": Near("charlie", ("charlie", "quebec")),
        "kilo": Near("hotel", ("hotel", "xray")),
        "sierra": Near("zulu", ("zulu", "bravo")),
        "neon": Near("photo", ("blueprint", "woodcut")),
        "four": Near("alfa", ("alfa", "yankee")),
        "halftone": Near("photo", ("woodcut", "blueprint")),
    },
    seed=120,
    moves=Moves(turn=4, zoom=(0.9, 1.05), shift=1),
)
