"""The stylesheet. Sizes are relative, so that a reader's own text size counts."""

from __future__ import annotations

from pybuild.report.html.palette import Palette, Theme


def stylesheet() -> str:
    """style.css: the light colours, the dark ones where the reader's system is dark, and no
    colours of ours where the reader has forced some."""
    dark = _variables(Theme.DARK.value)
    head = f":root {{ color-scheme: light dark; {_variables(Theme.LIGHT.value)} }}\n"
    return f"{head}@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{_RULES}"


def _variables(palette: Palette) -> str:
    names = palette._asdict().items()
    return " ".join(f"--{name.replace('_', '-')}: {value};" for name, value in names)


_RULES = """\
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
    "Noto Sans", "DejaVu Sans", sans-serif;
}
main, footer { max-width: 60rem; margin: 0 auto; padding: 0 1.25rem; }
main { padding-top: 2.5rem; }
footer { padding-top: 0.5rem; padding-bottom: 2.5rem; color: var(--muted); font-size: 0.875rem; }
h1 {
  margin: 0.4rem 0 0; font-size: 1.75rem; line-height: 1.25; font-weight: 650;
  overflow-wrap: anywhere;
}
h2 { margin: 0 0 0.75rem; font-size: 1.2rem; font-weight: 650; }
h3 { margin: 1.75rem 0 0.25rem; font-size: 1rem; font-weight: 650; }
p { margin: 0 0 0.75rem; }
p, h3, dd, li, figcaption, caption { overflow-wrap: anywhere; }
a { color: var(--link); }
code, pre {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.875em;
}
code { overflow-wrap: anywhere; white-space: pre-wrap; }
section {
  margin: 1.5rem 0; padding: 1.4rem 1.5rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 0.75rem;
}
section > :last-child { margin-bottom: 0; }
.status { margin: 0; font-weight: 650; }
.status::before {
  content: ""; display: inline-block; width: 0.7em; height: 0.7em; margin-right: 0.5em;
  border-radius: 50%;
  background: currentColor;
}
.good { color: var(--cached); }
.bad { color: var(--failed); }
.lead, .note, .hint { color: var(--muted); }
.lead { margin-top: 0.4rem; overflow-wrap: anywhere; }
.note { font-size: 0.875rem; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 0.75rem;
  margin: 1.5rem 0;
}
.tiles div {
  padding: 0.8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 0.75rem;
}
.tiles dt { color: var(--muted); font-size: 0.875rem; }
.tiles dd { margin: 0; font-size: 1.25rem; font-weight: 650; line-height: 1.3; }
.tiles dd small { display: block; color: var(--muted); font-size: 0.8125rem; font-weight: 400; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 0.35rem 1.25rem; margin: 0; }
.facts dt { color: var(--muted); }
.facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
figure { margin: 0 0 1rem; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: 0.6rem; color: var(--muted); font-size: 0.875rem; }
.key {
  display: inline-block; width: 0.7em; height: 0.7em; margin: 0 0.4em 0 0.1em;
  border-radius: 0.15em;
}
.key-ran { background: var(--ran); } .key-cached { background: var(--cached); }
.key-failed { background: var(--failed); } .key-moved { background: var(--moved); }
table { width: 100%; border-collapse: collapse; }
caption { padding: 0 0 0.5rem; color: var(--muted); font-size: 0.875rem; text-align: left; }
th { color: var(--muted); font-size: 0.8125rem; font-weight: 500; text-align: left; }
th, td {
  padding: 0.5rem 0.75rem 0.5rem 0; border-top: 1px solid var(--line); vertical-align: top;
  overflow-wrap: break-word;
}
thead th { border-top: 0; padding-top: 0; }
tbody th { color: var(--text); font-size: 1rem; font-weight: 400; }
tbody td { font-size: 0.9375rem; }
tr > :last-child { padding-right: 0; }
.number { width: 5.5rem; text-align: right; white-space: nowrap; }
.number { font-variant-numeric: tabular-nums; }
.what { width: 55%; overflow-wrap: anywhere; }
.where { overflow-wrap: anywhere; }
.where { display: block; color: var(--muted); font-size: 0.8125rem; }
.chip {
  display: inline-block; padding: 0 0.55em; border: 1px solid currentColor;
  border-radius: 1em; font-size: 0.8125rem; overflow-wrap: normal;
}
.ran { color: var(--ran); }
.cached { color: var(--cached); }
.failed { color: var(--failed); }
.base { color: var(--muted); }
details { border-top: 1px solid var(--line); }
details + details { margin-top: 0; }
summary { padding: 0.6rem 0; cursor: pointer; overflow-wrap: anywhere; }
summary:focus-visible, a:focus-visible {
  outline: 2px solid var(--link); outline-offset: 2px; border-radius: 0.2rem;
}
summary .size { font-variant-numeric: tabular-nums; font-weight: 650; }
details > :not(summary) { margin-left: 1.1rem; }
details table { width: calc(100% - 1.1rem); margin-bottom: 0.9rem; }
.error { border-color: var(--failed); border-left-width: 0.35rem; }
.error pre {
  margin: 0 0 0.75rem; padding: 0.8rem 1rem; overflow-x: auto; background: var(--page);
  border-radius: 0.5rem;
}
.message { white-space: pre-wrap; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 1.2rem; }
li { margin: 0.25rem 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  main { padding-top: 1.5rem; }
  main, footer { padding-left: 0.9rem; padding-right: 0.9rem; }
  h1 { font-size: 1.4rem; }
  section { padding: 1.1rem 1rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .facts { display: block; }
  .facts dd { margin-bottom: 0.6rem; }
  .cards thead {
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  }
  .cards, .cards caption, .cards tbody, .cards tr, .cards td, .cards th {
    display: block; width: auto;
  }
  .cards tr { padding: 0.6rem 0; border-top: 1px solid var(--line); }
  .cards td, .cards th { padding: 0.1rem 0; border: 0; text-align: left; }
  .cards td[data-label]::before {
    content: attr(data-label) " "; color: var(--muted); font-size: 0.8125rem;
  }
  .cards td:empty { display: none; }
}
@media print { body { background: none; } section, .tiles div { break-inside: avoid; } }
"""
