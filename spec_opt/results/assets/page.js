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
