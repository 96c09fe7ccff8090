"""What machines leave among people's photos and labels, and how it is told from what people meant.

File systems, archives, cloud drives, downloads, thumbnailers, spreadsheets and notebooks all leave something: a second
picture of each photo under a like name, a folder that becomes a class, a word that stands for no value. Each kind is
one line below, with what leaves it. "photo (1).jpg", "Copy of photo.jpg" and "photo-edited.jpg" are real photos and no
litter: if they are duplicates, their content says so.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from engine.text import count, nfc, some, words

LITTER_FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "__macosx": "macOS, in a zip",
        "__macosx[ (_]*": "the same, where several zips were unpacked",
        "@eadir": "Synology: thumbnails of every photo",
        "@tmp": "Synology",
        "@syno*": "Synology",
        "@__thumb": "QNAP: thumbnails of every photo",
        "#recycle": "Synology: deleted files",
        "#snapshot": "Synology",
        "@recycle": "QNAP: deleted files",
        "@recently-snapshot": "QNAP",
        "~snapshot": "NetApp",
        "$recycle.bin": "Windows: deleted files",
        "system volume information": "Windows",
        "found.[0-9][0-9][0-9]": "Windows: chkdsk",
        "dfsrprivate": "Windows: replication",
        "lost+found": "ext4: fsck",
        "lost.dir": "Android: cards that were pulled out",
        "network trash folder": "macOS, on a network drive",
        "temporary items": "macOS, on a network drive",
        "thevolumesettingsfolder": "macOS, on a network drive",
        "config.msi": "Windows: installers",
        "msdownld.tmp": "Windows: installers",
        "wpsystem": "Windows, on cards and other disks",
        "_vti_*": "web servers: a text for each photo, of its name",
        "_gsdata_": "GoodSync: older files",
        "*.lrdata": "Lightroom: previews of every photo",
        "__pycache__": "Python",
        "site-packages": "Python: the pictures of libraries",
        "node_modules": "JavaScript: the pictures of libraries",
        "__results___files": "Kaggle: pictures that a notebook drew",
        "wandb": "trackers: pictures that runs drew",
        "mlruns": "trackers",
        "lightning_logs": "trackers",
        ".ipynb_checkpoints": "Jupyter: copies of what was opened",
        ".trash*": "Linux, macOS: deleted files",
        ".thumbnails": "Android, GNOME",
        ".picasaoriginals": "Picasa",
        ".dropbox.cache": "Dropbox: deleted files",
        ".sync": "Resilio",
        ".stversions": "Syncthing: older files",
        ".spotlight-v100": "macOS",
        ".fseventsd": "macOS",
        ".git": "Git",
        ".cache": "downloaders",
        ".engine": "this program",
    }
)
"""Names of folders, as patterns in lower case, that are passed over without a word, like all hidden ones; and who
leaves them."""

LITTER_FILES: Mapping[str, str] = MappingProxyType(
    {
        "._*": "macOS: AppleDouble, the rest of a file of the name that follows",
        ".ds_store": "macOS",
        "icon\r": "macOS: a folder's icon",
        "thumbs.db*": "Windows",
        "ehthumbs*.db": "Windows",
        "desktop.ini": "Windows",
        "*:zone.identifier": "Windows: where a download came from",
        "*:afp_*": "macOS, on a network drive",
        "*:com.*": "macOS and Dropbox: attributes of a file",
        "~$*": "Office: a document that is open",
        ".~lock.*": "LibreOffice: a document that is open",
        ".nfs*": "NFS: deleted while open",
        ".fuse_hidden*": "FUSE: deleted while open",
        ".trashed-*": "Android: deleted",
        ".pending-*": "Android: not yet written",
        ".syncthing.*": "Syncthing: not yet written",
        "synophoto_thumb_*": "Synology: thumbnails",
        "synophoto_film_*": "Synology: pictures of videos",
        "synofile_thumb_*": "Synology: thumbnails",
        "albumart_{*": "Windows Media Player: covers",
        "albumartsmall.jpg": "Windows Media Player: covers",
        "picasa.ini": "Picasa",
        ".picasa.ini": "Picasa",
        "zbthumbnail.info": "ZoomBrowser",
    }
)
"""Names of files, as patterns in lower case, that are never images, whatever their suffix; and who leaves them."""

_WANTED: tuple[tuple[str, str, str], ...] = (
    (r"^\..+\.icloud$", "photo that is only in iCloud", "download them first"),
    (r"\.(nextcloud|owncloud)$", "photo that is only in a cloud", "download them first"),
    (r"^\..*\.(jpe?g|png|webp|bmp|gif|tiff?)$", "hidden image", "rename them"),
    (r"\.(part|partial|crdownload|download|opdownload|tmp|!ut|filepart)$", "unfinished download", ""),
    (r"\.(cr2|cr3|nef|arw|dng|orf|rw2|raf|srw|pef)$", "camera raw file", "develop them to JPEG"),
    (r"\.(mp4|mov|avi|mkv|webm|m4v|3gp|mts)$", "video", ""),
    (r"\.(zip|tar|tgz|gz|7z|rar)$", "archive", "unpack them first"),
    (r"\.(svg|psd|pdf|eps|ai)$", "drawing or document", ""),
    (
        r"\.(jpe?g|png|webp|bmp|gif)(\.\d+|[?&!:;%\s](.|\n)*|[_-](large|medium|small|orig|\d+))$",
        "image under another suffix",
        "rename them",
    ),
)
"""What is no image by its suffix and may have been wanted: a pattern, what it is, what to do. Sidecars (.json, .xmp,
.aae, .thm, .lrv, ExifTool's .jpg_original) are not among them: their photo stands beside them."""

_WRITERS = {
    "pandas and numpy": ("nan", "-nan", "<na>", "nat", "1.#qnan", "-1.#ind"),
    "spreadsheets": ("#n/a", "#n/a n/a", "#na", "n/a", "#value!", "#ref!", "#div/0!", "#name?", "#null!", "#num!"),
    "newer spreadsheets": ("#error!", "#spill!", "#calc!", "#field!"),
    "spreadsheets in other languages": ("#nv", "#wert!", "#bezug!", "#zahl!", "#valeur!", "#nom?", "#nombre!"),
    "more of them": ("#¡valor!", "#¡ref!", "#valor!", "#valore!", "#arg!", "#adr!", "#знач!", "#ссылка!"),
    "spreadsheets on the web": ("#connect!", "#busy!", "#getting_data", "#blocked!", "#unknown!", "loading..."),
    "databases and programs": ("null", "(null)", "<null>", "nil", "undefined", "\\n"),
    "R, MATLAB and Go": ("na_character_", "<undefined>", "<missing>", "<nil>"),
}
NO_VALUE = frozenset(word for words in _WRITERS.values() for word in words)
"""How machines write that there is no value, in lower case. No class, unless the recipe says that it is one."""

MAYBE_NO_VALUE = frozenset(("na", "none", "-", "--", "?", ".", "(blank)"))
"""What may mean no value, and is honestly a class elsewhere (NA is Namibia, none is a wafer without a fault, - is a
sign): a class, and said."""

UNLABELLED = frozenset(
    {
        *("not sure", "notsure", "unsure", "skip", "skipped", "other", "others", "unknown", "unk", "unlabeled"),
        *("unlabelled", "no label", "nolabel", "undetermined", "unclear", "uncertain", "ambiguous", "misc"),
        *("miscellaneous", "ignore", "ignored", "invalid", "tbd", "todo", "to do"),
        *("unclassified", "uncategorized", "uncategorised", "do not know", "dont know", "can not tell", "cannot tell"),
        *("not available", "not applicable", "to be determined", "unidentified", "기타", "모름", "알수없음"),
        *("알 수 없음", "미분류", "미정", "해당없음", "해당 없음", "불명", "분류불가", "분류 불가"),
    }
)
"""How people say that they did not label an image, in words of `engine.text.words`: a class, and said; a first recipe
leaves it out."""

# Space of any width; then what has none: marks of direction, byte order marks, soft hyphens. Joiners (U+200C, U+200D)
# stay: Persian and emoji are written with them.
_SPACES = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\t\r\n]+")
_INVISIBLE = re.compile(r"[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_CURLY = '\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u00ab\u00bb"'


_FOLDER, _FILE = (re.compile("|".join(map(fnmatch.translate, patterns))) for patterns in (LITTER_FOLDERS, LITTER_FILES))


def is_litter_folder(name: str) -> bool:
    """Whether a folder of this name holds nothing that a person put there."""
    return name.startswith(".") or bool(_FOLDER.match(name.casefold()))


def is_litter_file(name: str) -> bool:
    """Whether a file of this name is no image, whatever its suffix."""
    return bool(_FILE.match(name.casefold()))


def is_litter_path(path: str) -> bool:
    """Whether somebody listed litter: by the file's own name, or that of a folder it lies in. Of an absolute path only
    the last folder counts: all data may lie below ~/.cache or a snapshot."""
    *folders, name = path.replace("\\", "/").split("/")
    near = folders[-1:] if path.startswith("/") else folders
    return is_litter_file(name) or any(_FOLDER.match(folder.casefold()) for folder in near)


def is_litter_label(label: str) -> bool:
    """Whether a label was made of a name that a listing found: .DS_Store, Thumbs.db, __MACOSX."""
    return bool(_FILE.match(label.casefold()) or _FOLDER.match(label.casefold()))


class Others:
    """Files that are no images, counted by kind, so that it does not matter how many there are: `append` takes their
    names, `suffixes` counts these."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()
        self._kinds: dict[tuple[str, str], list[Any]] = {}  # what, remedy: how many, and the first one

    def append(self, name: str) -> None:
        base = os.path.basename(name)  # noqa: PTH119  names by the million
        self.suffixes[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122
        for pattern, what, remedy in _WANTED:
            if re.search(pattern, base, re.IGNORECASE):
                self._kinds.setdefault((what, remedy), [0, name])[0] += 1
                break

    def passed_over(self) -> list[str]:
        """Words about those that may have been wanted: "3 videos passed over, such as a/1.mp4"."""
        return [
            f"{count(number, what, _plural(what))} passed over, such as {first!r}"
            + (f": {remedy} to use them" if remedy else "")
            for (what, remedy), (number, first) in self._kinds.items()
        ]


def _plural(what: str) -> str:
    first, *rest = what.split(" ")
    if what.startswith(("photo ", "image ", "drawing ")):  # a noun with words behind it
        return " ".join([f"{first}s", *rest]).replace("that is", "that are").replace("or document", "or documents")
    return f"{what}s"


def tidy(text: str) -> str:
    """A label or a column's name as people see it: NFC, any space one kind of space, nothing invisible, no space or
    curly quotes around it."""
    if text.isascii() and text.isprintable():
        return text.strip()
    text = _INVISIBLE.sub("", _SPACES.sub(" ", nfc(text))).strip()
    curly = len(text) > 2 and text[0] in _CURLY and text[-1] in _CURLY
    return text[1:-1].strip() if curly else text


def means_nothing(label: str) -> bool:
    """Whether a label is how a machine writes that there is none."""
    return label.casefold() in NO_VALUE


def says_unlabelled(label: str) -> bool:
    """Whether a label is how a person says that the image has none."""
    return " ".join(words(label)) in UNLABELLED


def may_mean_nothing(label: str) -> bool:
    """Whether a label may be how a person writes that there is none."""
    return label.casefold() in MAYBE_NO_VALUE or says_unlabelled(label)


_SPOILED = (
    (re.compile(r"[+-]?\d(\.\d+)?E[+-]?\d{2,3}"), "a number that a spreadsheet has shortened"),
    (
        re.compile(
            r"(\d{1,2}-(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)|"
            r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)-\d{2}|\d{4}-\d\d-\d\d 00:00:00)"
        ),
        "a date that a spreadsheet made of something else",
    ),
    (re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?"), "a number with separators of thousands"),
    (re.compile(r"#{3,}"), "a number that did not fit its cell"),
    (re.compile(r"\[object Object\]|<\w+ object at 0x[0-9a-f]+>|tensor\(.*\)"), "a program's value, not its text"),
    (re.compile("\ufffd|.*\ufffd.*"), "text whose letters were lost when it was converted"),
)


def spoiled(text: str) -> str:
    """What a spreadsheet or a program seems to have made of a value, in words; "" where nothing seems so."""
    return next((what for pattern, what in _SPOILED if pattern.fullmatch(text)), "")


def whole_numbers(labels: Iterable[str]) -> dict[str, str]:
    """{"3.0": "3"} where all labels are whole numbers and some have been made floats, as pandas does to a column in
    which a value is missing; else {}."""
    distinct = {label for label in labels if label and not means_nothing(label)}
    if not all(re.fullmatch(r"-?\d+(\.0+)?", label) for label in distinct):
        return {}
    return {label: label.partition(".")[0] for label in distinct if "." in label}


def looks_spoiled(labels: Iterable[str]) -> list[str]:
    """Words about labels that seem spoiled: "labels that look like a date ...: 'May-01'"."""
    kinds: dict[str, list[str]] = {}
    for label in labels:
        if what := spoiled(label):
            kinds.setdefault(what, []).append(label)
    return [f"{count(found, 'label')} that may be {what}: {some(found, 3)}" for what, found in kinds.items()]
