"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("hwbench-figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetScale2d"]] };
  const PAPER_PX = 700;  // the width of an A4 or letter page within its margins
  const plots = Array.from(document.querySelectorAll(".plot"));

  function themed(layout, isDark) {
    const ink = isDark ? "#e4e8ec" : "#1b1f24", grid = isDark ? "#363e47" : "#d5dae0";
    const result = Object.assign({}, layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: isDark ? "#9aa5b1" : "#5c6670", activecolor: ink },
      font: { color: ink, size: 12, family: "system-ui, sans-serif" },
    });
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        result[key] = Object.assign({ gridcolor: grid, zerolinecolor: grid, linecolor: grid }, layout[key]);
      }
    }
    result.shapes = (layout.shapes || []).map((s) => Object.assign({}, s, { line: Object.assign({ color: ink }, s.line) }));
    return result;
  }

  function inked(trace, isDark) {  // a line in the colour of the text, which only the page knows
    if (trace.meta !== "ink") return trace;
    return Object.assign({}, trace, { line: Object.assign({}, trace.line, { color: isDark ? "#ffffff" : "#000000" }) });
  }

  function draw(isDark, size) {
    return Promise.all(plots.map((plot) => {
      const figure = figures[plot.dataset.figure];
      const layout = Object.assign(themed(figure.layout, isDark), size);
      return Plotly.react(plot, figure.data.map((trace) => inked(trace, isDark)), layout, config);
    }));
  }

  for (const plot of plots) plot.textContent = "";  // the words for those without JavaScript
  draw(dark.matches);
  dark.addEventListener("change", () => draw(dark.matches));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
    draw(false, { autosize: false, width: PAPER_PX });
  });
  window.addEventListener("afterprint", () => draw(dark.matches));
})();
