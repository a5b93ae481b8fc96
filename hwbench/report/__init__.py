"""Records to text and to one offline HTML page. Pure functions of a saved result.

    ranking.py      which engine is fastest, or that this cannot be told
    words.py        single facts as sentences; missing values
    table.py        the table of results, and its footnotes, as data
    text.py         ... for the terminal (rich)
    delimited.py    ... as CSV
    verdict_*.py    a comparison, for the terminal; markdown.py and junit.py, for CI
    diff_text.py    a layer difference, for the terminal and as CSV
    figures.py      charts as plotly dicts: distributions, memory, throughput, comparison
    layer_charts.py the time of the layers, by kind of op
    roofline.py     the layers of each engine under the roofs of the machine
    energy_*.py     energy: rows, what may be said over them, tables, curves, traces; for page, terminal, CSV and JSON
    thinning.py     fewer samples, for drawing only
    page.py         what the page shows, as data for the templates
    conditions.py   what was built, and where, as tables for the page
    comparison.py   several results beside each other, as data for the templates
    html.py         the page, and the records back out of it
    templates/      Jinja2 (escaping everything), the style sheet, the few lines of script
    assets/         plotly.js, vendored

Measuring and rendering never meet: everything here needs a file and nothing else.
"""
