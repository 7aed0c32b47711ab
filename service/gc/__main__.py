"""``python -m service.gc [--delete] [--json]``. Without ``--delete`` it only says what it would remove."""

from __future__ import annotations

import argparse
import json
import sys

from sqlalchemy.exc import SQLAlchemyError

from service.db.engine import sync_engine
from service.gc.collecting import Collection
from service.gc.schedule import AnotherCollects, collect_now, collection
from service.settings import Settings, SettingsError, load_settings


def main(settings: Settings, *, delete: bool, as_json: bool) -> None:
    """Collect once and say what was done.

    Raises:
        AnotherCollects: see there.
    """
    done = collect_now(settings) if delete else _look(settings)
    assert done is not None
    if as_json:
        print(json.dumps(done.to_record(), indent=2))
    else:
        _say(done)


def _look(settings: Settings) -> Collection:
    engine = sync_engine(settings, application_name="doublei-gc")
    try:
        return collection(engine, settings, delete=False)
    finally:
        engine.dispose()


def _say(done: Collection) -> None:
    for one in done.garbage:
        print(f"{one.kind:10} {one.bytes:>13,}  {one.path}")
    count = len(done.garbage)
    said = f"{count} {'thing' if count == 1 else 'things'}, {done.bytes:,} bytes"
    if done.deleted:
        print(f"removed {said}")
    else:
        print(f"would remove {said}; nothing was changed (--delete removes them)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m service.gc", description=__doc__)
    parser.add_argument("--delete", action="store_true", help="remove it; without this, only say what")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    try:
        main(load_settings(), delete=options.delete, as_json=options.json)
    except SettingsError as error:
        sys.exit(str(error))
    except AnotherCollects:
        sys.exit("another collection is running; nothing was done")
    except SQLAlchemyError as error:
        sys.exit(f"the records can't be read: {type(error).__name__}")
