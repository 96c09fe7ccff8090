"""Where samples are listed: folders and tables, each turned into the same columns of a manifest before anybody has
opened a file.

All names are brought to Unicode form NFC (a zip made on macOS holds NFD, where the same Korean name is other code
points), so that one class is one class and ids join with the user's tables; only `path` keeps the spelling on disk,
since that is what opens the file. What a listing passed over, and what it took for what, is told beside it.
"""
