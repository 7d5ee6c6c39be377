// Figures take the colours of the page, also when it switches between light and dark.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function recolour() {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  for (const figure of document.querySelectorAll(".plotly-graph-div")) {
    Plotly.relayout(figure, { "font.color": ink });
  }
}
dark.addEventListener("change", recolour);
recolour();

// Cells of a heat map are too narrow for ranges on a phone: show the means alone.
if (window.innerWidth < 600) {
  for (const name of ["acceptance_heatmap", "mse_heatmap"]) {
    const figure = document.getElementById(name);
    if (!figure || !figure.data.length) continue;
    const means = figure.data[0].text.map((row) => row.map((cell) => cell.split("<br>")[0]));
    Plotly.restyle(figure, { text: [means] });
  }
}
