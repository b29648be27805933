"""A repair of Snakemake (9.14 to 9.27): when a job with `update` outputs fails, its old files are no longer taken for new ones.

After such a failure Snakemake puts the old files back, but with a new date, and it records that they were made from the job's
present inputs. A score of the metric's former settings, or of weights that have been replaced since, would count as up to date
from then on. Here a file that is put back keeps its date and its record, so that the next run sees what it saw before the failure.

On a cluster each job runs a Snakemake inside the outer one. The inner one used to take away the backup copy that the outer one
needs; now it leaves it.
"""

import functools
import os
import shutil
from pathlib import Path


def dated(backup):
    """Snakemake's `backup_output(path)`, with a copy that keeps the file's date."""

    @functools.wraps(backup)
    def copy(self, path):
        backup(self, path)
        if path.is_file():
            shutil.copystat(path, self._get_backup_path(path))

    return copy


def restored(restore, is_main):
    """Snakemake's `restore_output(path)`, with a file that keeps its date and its record; returns whether it was put back.

    is_main(persistence): whether this is the outermost Snakemake, which records what jobs have made.
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
    """Snakemake's `_write_record(path, record)`, except for a file that has just been put back: its record stays."""

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
