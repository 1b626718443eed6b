"""A child process: save a package's source archive with pip's own finder and session, and run nothing of it.

`pip download` asks a source archive for its metadata, which means to execute its setup.py. This program takes only
the parts of pip that find and fetch, with all of the user's settings (index, mirrors, logins, proxies). It is started
by `registries.py` as a script, with `pip download`'s own options and `--sha256`, the file that is wanted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> int:
    """Exit status 0: saved; 3: the index has no such version."""
    from pip._internal.commands import create_command
    from pip._internal.network.utils import response_chunks
    from pip._internal.utils.hashes import Hashes
    from pip._vendor.packaging.requirements import Requirement

    where = arguments.index("--sha256")
    wanted = arguments[where + 1]
    command: Any = create_command("download")
    options, (asked,) = command.parse_args(arguments[:where] + arguments[where + 2 :])
    requirement = Requirement(asked)
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        hashes = Hashes({"sha256": [wanted]})
        best = finder.find_best_candidate(requirement.name, requirement.specifier, hashes).best_candidate
        if best is None:
            return 3
        with session.get(
            best.link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True
        ) as answer:
            answer.raise_for_status()
            with (Path(options.download_dir) / best.link.filename).open("wb") as out:
                for data in response_chunks(answer, 1 << 20):
                    out.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
