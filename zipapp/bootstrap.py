"""__main__ of ironflow.pyz: checks the Python, unpacks once per content hash, then runs ironflow.

C extensions cannot be imported from a zip, so the `site/` part of the archive is unpacked to
`<cache>/ironflow/<content hash>/`: into a temporary sibling, then one rename, so that several cold
starts at once are safe and a half-unpacked folder is never seen. Each start compares size and time
of every file with the archive's listing; a damaged folder is set aside and unpacked anew. The cache
is XDG_CACHE_HOME or ~/.cache; where neither can be written, a private folder in the temporary one.

This file must parse on any Python since 2.7, to tell it which Python is wanted: ASCII, no
annotations, no f-strings. `archive_record` is written into the archive by build.py.
"""

import os
import sys

STAMP = 1577836800  # 2020-01-01, the time of every unpacked file: a changed file shows by its own
HOUR = 3600


def check_python():
    """Exit with code 2 and one line unless this Python can load the archive's C extensions."""
    import archive_record as record

    wanted = "%s %s on %s" % (record.IMPLEMENTATION, record.PYTHON, record.MACHINE)
    minor = "%d.%d" % sys.version_info[:2]
    here = "%s %s on %s" % (implementation(), minor, machine())
    if here == wanted and extension_suffix() == record.SUFFIX:
        return
    if here == wanted:
        wanted += " with " + record.SUFFIX
        here += " with " + extension_suffix()
    sys.stderr.write(
        "ironflow.pyz: built for %s, but this is %s (%s); start it with python%s"
        " on the platform it was built for, or build one here with zipapp/build.py\n"
        % (wanted, here, sys.executable, record.PYTHON)
    )
    sys.exit(2)


def implementation():
    """Return the name of this implementation as sys.implementation has it."""
    known = getattr(sys, "implementation", None)
    return known.name if known else "cpython"


def machine():
    """Return platform and processor, such as linux-x86_64; needs no heavy import."""
    processor = os.uname()[4] if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE")
    return "%s-%s" % (sys.platform, processor)


def extension_suffix():
    """Return the file ending of C extensions: it tells glibc from musl and debug builds apart."""
    try:
        from importlib.machinery import EXTENSION_SUFFIXES
    except ImportError:
        return ""
    return EXTENSION_SUFFIXES[0]


def cache_folders():
    """Yield the folders to try for the unpacked archive, best first."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~") if os.environ.get("HOME", "?") else ""
    if os.path.isabs(chosen):
        yield os.path.join(chosen, "ironflow")
    elif os.path.isdir(home) and home != os.sep:
        yield os.path.join(home, ".cache", "ironflow")
    import tempfile

    user = os.getuid() if hasattr(os, "getuid") else "user"
    yield os.path.join(tempfile.gettempdir(), "ironflow-%s" % user)
    private = tempfile.mkdtemp(prefix="ironflow-")  # somebody else owns the name above
    import atexit
    import shutil

    atexit.register(shutil.rmtree, private, ignore_errors=True)
    yield private


def is_ours(folder):
    """Tell whether nobody else could have put code into this folder."""
    status = os.lstat(folder)
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.geteuid() and (status.st_mode & 0o170022) == 0o040000


def is_whole(folder, listing):
    """Tell whether every file of the archive is in the folder, unchanged since it was unpacked."""
    try:
        for size, path in listing:
            status = os.stat(folder + os.sep + path)
            if status.st_size != size or int(status.st_mtime) != STAMP:
                return False
    except OSError:
        return False
    return True


def read_listing(archive):
    """Return (size, path) of every file below site/ as build.py listed them."""
    lines = archive.get_data(os.path.join(archive.archive, "listing")).decode("utf-8")
    rows = (line.split(" ", 1) for line in lines.splitlines())
    return [(int(size), path) for size, path in rows]


def unpacked(archive):
    """Return the folder with the archive's content, unpacking it where that is not yet done."""
    import archive_record as record

    listing = read_listing(archive)
    refused = None
    try:
        for cache in cache_folders():
            folder = os.path.join(cache, record.CONTENT)
            try:
                os.makedirs(cache, mode=0o700, exist_ok=True)
                if not is_ours(cache):
                    continue
                if not is_whole(folder, listing):
                    unpack(archive.archive, cache, folder, listing)
                return folder
            except OSError as error:
                refused = error
    except OSError as error:  # not even a temporary folder
        refused = error
    sys.stderr.write("ironflow.pyz: cannot unpack itself anywhere: %s\n" % refused)
    sys.exit(2)


def unpack(pyz, cache, folder, listing):
    """Unpack into a temporary sibling and rename it; a start that was quicker wins."""
    import shutil
    import tempfile
    import time
    import zipfile

    with os.scandir(cache) as entries:
        leftovers = [entry.path for entry in entries if entry.name.startswith("tmp-")]
    for path in leftovers:  # of starts that were killed
        if os.path.isdir(path) and os.path.getmtime(path) < time.time() - HOUR:
            shutil.rmtree(path, ignore_errors=True)
    temporary = tempfile.mkdtemp(prefix="tmp-", dir=cache)
    try:
        fresh = os.path.join(temporary, "site")
        with zipfile.ZipFile(pyz) as opened:
            opened.extractall(temporary, ["site/" + name for _, name in listing])
        for _, name in listing:
            os.utime(os.path.join(fresh, name), (STAMP, STAMP))
        if os.path.lexists(folder) and not is_whole(folder, listing):
            os.rename(folder, os.path.join(temporary, "damaged"))
        try:
            os.rename(fresh, folder)
        except OSError:
            if not is_whole(folder, listing):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def run():
    """Make the unpacked folder the first place to import from and call ironflow's main."""
    check_python()
    try:
        here = os.getcwd()
    except OSError as error:  # a folder that was removed: nothing can be found from there
        sys.stderr.write("ironflow.pyz: the current folder cannot be used: %s\n" % error.strerror)
        sys.exit(2)
    pyz = os.path.abspath(sys.argv[0])
    folder = unpacked(__loader__)
    sys.path[:] = [folder] + [entry for entry in sys.path if entry != __loader__.archive] + [here]
    sys.argv[0] = pyz
    from ironflow import launch
    from ironflow.__main__ import main

    launch.PYZ = pyz
    return main()


if __name__ == "__main__":
    sys.exit(run())
