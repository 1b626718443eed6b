"""Where did this file come from, and which models saw this document? Answered from MLflow's records, by hash.

python -m flows.lineage models/export/model.gguf       back to the source archives (a file, a folder, a sha256,
                                                       NAME/3 or NAME@champion of the registry, a run)
python -m flows.lineage 1cc5e6fe7f1f... --html page.html
python -m flows.lineage --document tang-000017         every model that was trained on it; --html PAGE here too
python -m flows.lineage --text-file poem.txt           the same, by the text
python -m flows.lineage --removal ids.txt              models to retrain, and the lines for params.yaml
python -m flows.lineage --index                        the index of data/clean, for corpora recorded without one
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from components.errors import InkwellError


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.lineage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 done, 2 something to mend (told in one sentence), 1 a defect.",
    )
    parser.add_argument("what", nargs="?", help="a hash, a file, a folder, a registered version or a run")
    parser.add_argument(
        "--document", action="append", default=[], metavar="ID", help="a document's id; may be given again"
    )
    parser.add_argument("--text-file", action="append", default=[], type=Path, metavar="FILE", help="a document's text")
    parser.add_argument("--removal", type=Path, metavar="FILE", help="ids to be removed, one a line")
    parser.add_argument("--index", action="store_true", help="write the index of data/clean and keep it with its run")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write one page that opens offline")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--uri", help="tracking server (default: tracking.uri of params.yaml)")
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    arguments = parser.parse_args(argv)
    try:
        _answer(arguments)
    except InkwellError as error:
        print(f"lineage: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _answer(arguments: argparse.Namespace) -> None:
    forward = bool(arguments.document or arguments.text_file or arguments.removal)
    if sum((bool(arguments.what), forward, arguments.index)) != 1:
        raise InkwellError(
            "name one thing: a file or hash to follow back, --document, --text-file or --removal, or --index."
        )
    if arguments.removal and (arguments.document or arguments.text_file):
        raise InkwellError("--removal has its ids in the file: leave out --document and --text-file.")
    if arguments.html and (arguments.removal or arguments.index):
        raise InkwellError(
            "--html shows the way back from a file, or forward from --document or --text-file: leave it out here."
        )
    from components.step import quiet_environment
    from flows.lineage.records import Records

    quiet_environment()
    records = Records(arguments.uri or tracking_uri(arguments.workspace))
    if arguments.what:
        _backward(records, arguments)
        return
    from flows.lineage import forward as answers

    if arguments.index:
        print(answers.keep_index(records, arguments.workspace))
        return
    if arguments.removal:
        request = answers.removal(records, arguments.workspace, answers.read_ids(arguments.removal))
        print(json.dumps(request, indent=1, ensure_ascii=False) if arguments.json else answers.removal_text(request))
        return
    texts = [answers.read_text(path) for path in arguments.text_file]
    found = answers.who_saw(records, arguments.workspace, arguments.document, texts)
    if arguments.html:
        from flows.lineage.documents_page import write_documents_page

        write_documents_page(found, arguments.html)
    if arguments.json:
        print(json.dumps(answers.as_json(found), indent=1, ensure_ascii=False))
    else:
        print(arguments.html or answers.text(found))


def _backward(records: object, arguments: argparse.Namespace) -> None:
    from flows.lineage.backward import lead_back
    from flows.lineage.records import Records
    from flows.lineage.words import as_json, text

    assert isinstance(records, Records)
    chain = lead_back(records, arguments.what, arguments.workspace)
    if arguments.html:
        from flows.lineage.page import write_page

        write_page(chain, arguments.html)
    if arguments.json:
        print(json.dumps(as_json(chain), indent=1, ensure_ascii=False))
    elif arguments.html:
        print(arguments.html)
    else:
        print(text(chain))


def tracking_uri(workspace: Path) -> str:
    """`tracking.uri` of the workspace's params.yaml, else its SQLite file."""
    from components.configuration import load

    parameters = workspace / "params.yaml"
    given = load(parameters).tracking.uri if parameters.exists() else None
    return given or f"sqlite:///{(workspace / '.inkwell' / 'mlflow.db').absolute().as_posix()}"


if __name__ == "__main__":
    sys.exit(main())
