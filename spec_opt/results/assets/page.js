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

// Tables that are wider than their box say so.
function mark() {
  for (const box of document.querySelectorAll(".scroll")) {
    box.classList.toggle("wide", box.querySelector("table").offsetWidth > box.clientWidth);
  }
}
window.addEventListener("resize", mark);
mark();

// Lines to paste have a button that copies them; where a browser refuses, it selects them.
for (const line of document.querySelectorAll(".code > code")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(line.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(line);
      button.textContent = "Selected";
    }
  };
  line.after(" ", button);
}
