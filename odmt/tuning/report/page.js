(() => {
  "use strict";
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  const drawn = [];

  function themed(layout) {
    const ink = colour("--ink");
    const look = {
      "paper_bgcolor": colour("--ground"),
      "font.color": ink,
      "hoverlabel.bgcolor": colour("--panel"),
      "hoverlabel.bordercolor": colour("--line"),
      "hoverlabel.font.color": ink,
      "modebar.color": colour("--soft"),
      "modebar.activecolor": colour("--link"),
      "modebar.bgcolor": "rgba(0,0,0,0)",
    };
    (layout.annotations || []).forEach((_, index) => { look[`annotations[${index}].font.color`] = colour("--soft"); });
    return look;
  }

  function traceLook(data) {
    return data[0] && data[0].type === "parcoords"
      ? { "labelfont.color": colour("--ink"), "tickfont.color": colour("--ink"), "rangefont.color": "rgba(0,0,0,0)",
          "line.colorbar.tickfont.color": colour("--ink") }
      : {};
  }

  async function draw(place) {
    const figure = JSON.parse(document.querySelector(`script[data-for="${place.id}"]`).textContent);
    await Plotly.newPlot(place, figure.data, figure.layout, options);
    drawn.push(place);
    await colourIn(place);
  }

  const colourIn = (place) => Plotly.update(place, traceLook(place.data), themed(place.layout));
  const recolour = () => drawn.forEach(colourIn);

  document.querySelectorAll(".plot").forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  document.getElementById("theme").addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    recolour();
  });
  document.getElementById("copy").addEventListener("click", async (event) => {
    const text = document.getElementById("latex");
    try {
      await navigator.clipboard.writeText(text.textContent);
      event.target.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(text);
      event.target.textContent = "selected: press Ctrl+C";
    }
  });
})();
