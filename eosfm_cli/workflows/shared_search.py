"""What one fit has found out about the specialists, for others that would find the same."""

from __future__ import annotations

import os
import shutil

from eosfm_cli.errors import unwritable
from eosfm_cli.run_dir import RunDir, replacing, write_csv
from eosfm_cli.training.callbacks import read_history
from eosfm_cli.training.trainer import checkpoint_folder


def take_search(searched: RunDir, run: RunDir) -> bool:
    """Lay the finished search of one run into another one; whether there is one.

    Raises:
        OutputError: The run's folder cannot be written.
    """
    scores = searched.read_summary().get("scores")
    if not scores:
        return False
    checkpoint = checkpoint_folder(searched, "search") / searched.last.name
    if not checkpoint.is_file():  # a probe leaves its scores alone
        run.write_summary(scores=scores)
        return True
    place = checkpoint_folder(run, "search")
    try:
        place.mkdir(parents=True, exist_ok=True)
        try:
            os.link(checkpoint, place / checkpoint.name)  # it is never written, but replaced
        except OSError:
            with replacing(place / checkpoint.name) as temporary:
                shutil.copyfile(checkpoint, temporary)
    except OSError as error:
        raise unwritable(place, error) from None
    rows = [row for row in read_history(searched) if row.get("phase") == "search"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(run.metrics, columns, ([row.get(key) for key in columns] for row in rows))
    return True
