"""Puts page.html together from the npm packages named in README.md, unpacked beside each other: `python make.py FOLDER`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

SCRIPTS = ("vega/build/vega.min.js", "vega-lite/build/vega-lite.min.js", "vega-embed/build/vega-embed.min.js")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
{refresh_tag}
<title>Plots</title>
<link rel="icon" href="data:,">
<style>
body { margin: 0 auto; max-width: 80rem; padding: 2rem; background: #fbfaf6; color: #1d1c1a; font: 16px/1.5 system-ui, sans-serif; }
body > div { display: inline-block; margin: 0 1.5rem 1.5rem 0; }
table { border-spacing: 15px; }
</style>
LIBRARIES
<script>
// DVC hands an empty cell of a table on as empty text, which would be drawn at 0: rows without a value are left out
const columns = part => [part.encoding?.y?.field, ...(part.layer ?? []).flatMap(columns)].filter(Boolean);
const measured = drawing => {
  const names = columns(drawing).map(name => name.replace(/\\\\([.[\\]])/g, "$1"));
  const values = drawing.data?.values?.filter(row => names.every(name => row[name] !== ""));
  return values ? {...drawing, data: {...drawing.data, values}} : drawing;
};
// the menu's editor and source lead to another host
vegaEmbed = (embed => (place, drawing) => embed(place, measured(drawing), {actions: {export: true, source: false, compiled: false, editor: false}}))(vegaEmbed);
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def main(folder: Path) -> None:
    """Write page.html beside this file."""
    found = []
    for script in SCRIPTS:
        text = (folder / script).read_text(encoding="utf-8")
        text = re.sub(r"//# sourceMappingURL=\S+", "", text).strip()
        assert "</script" not in text
        assert not re.search(r"\{(scripts|plot_divs|refresh_tag)\}", text), "DVC would put its own text there"
        found.append(f"<script>{text}</script>")
    page = PAGE.replace("LIBRARIES", "\n".join(found))
    Path(__file__).with_name("page.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
