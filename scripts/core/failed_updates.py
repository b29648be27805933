"""A repair to what Snakemake (9.14 to 9.27) makes of `update` outputs whose job fails: old files passed for new ones.

Snakemake puts back what such a job found, with a new date, and records that it was made from what the job was to read. A score of
the metric's former settings, or of weights that have since been made again, then counted as up to date for good. Here a file that
is put back keeps its date and its record, so that the next run sees what it saw before the failure.

On a cluster each job is a Snakemake in a Snakemake, and the inner one took the copy that the outer one needs; it leaves it now.
"""

import functools
import os
import shutil
from pathlib import Path


def dated(backup):
    """Snakemake's `backup_output(path)`, whose copy then has the file's date."""

    @functools.wraps(backup)
    def copy(self, path):
        backup(self, path)
        if path.is_file():
            shutil.copystat(path, self._get_backup_path(path))

    return copy


def restored(restore, is_main):
    """Snakemake's `restore_output(path)` → whether the file is (or will be) the old one; it gets its date and keeps its record.

    is_main(persistence): whether it is the outermost Snakemake, which records what jobs have made.
    """

    @functools.wraps(restore)
    def answer(self, path):
        copy = self._get_backup_path(path)
        if not is_main(self):
            return copy.exists()
        before = copy.stat() if copy.is_file() else None
        done = restore(self, path)
        if before:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            self.__dict__.setdefault("put_back", set()).add(str(path))
        return done

    return answer


def recorded(write):
    """Snakemake's `_write_record(path, record)`, which leaves the record of a file alone that has just been put back."""

    @functools.wraps(write)
    def answer(self, key, record):
        waiting, path = self.__dict__.get("put_back", set()), str(Path(key))
        if path in waiting:
            waiting.remove(path)
        else:
            write(self, key, record)

    return answer


def repair() -> None:
    """Repair Snakemake's classes, once."""
    from snakemake import persistence
    from snakemake.persistence import db, file
    from snakemake_interface_executor_plugins.settings import ExecMode

    base = persistence.PersistenceBase
    if hasattr(base.restore_output, "__wrapped__"):
        return

    def is_main(self):
        return self.dag.workflow.exec_mode == ExecMode.DEFAULT

    base.backup_output, base.restore_output = dated(base.backup_output), restored(base.restore_output, is_main)
    for kind in (file.FilePersistence, db.DbPersistence):
        kind._write_record = recorded(kind._write_record)
