/* Draws every plot; again when the scheme changes or the page is printed. No network, no state. */
(function () {
  "use strict";
  const drawings = JSON.parse(document.getElementById("drawings").textContent);
  const colours = JSON.parse(document.getElementById("colours").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const family = getComputedStyle(document.body).fontFamily;

  function swapped(figure) {
    let text = JSON.stringify(figure);
    for (const [light, night] of Object.entries(colours)) text = text.replaceAll('"' + light + '"', '"' + night + '"');
    return JSON.parse(text);
  }

  function draw(place, isDark, width) {
    const figure = isDark ? swapped(drawings[place.id]) : structuredClone(drawings[place.id]);
    const layout = figure.layout;
    layout.font.family = family;
    layout.hoverlabel = { font: { family: family, size: 13 } };
    if (width) layout.width = width;
    const room = width || place.clientWidth;
    if (room < 480) {
      for (const key of Object.keys(layout)) if (key.startsWith("xaxis")) layout[key].nticks = room < 220 ? 3 : layout[key].nticks || 5;
    }
    if (room < 420) {
      // Too narrow for a name and an interval side by side: the line shows the interval, the tables its figures.
      for (const note of layout.annotations || []) if (note.name === "value") note.text = note.text.replace(/ \[.*\]$/, "");
    }
    return window.Plotly.react(place, figure.data, layout, { displayModeBar: false, responsive: !width });
  }

  // On paper the page has one known width; how wide a drawing is there depends on what it stands in.
  function paperWidth(place) {
    const row = place.closest(".row");
    return place.closest(".cards") ? 165 : row && row.children.length > 1 ? 310 : row ? 600 : 650;
  }

  function drawAll(isDark, isPaper) {
    const places = [...document.querySelectorAll(".drawing")];
    return Promise.all(places.map((place) => draw(place, isDark, isPaper ? paperWidth(place) : 0)));
  }

  drawAll(dark.matches).then(() => document.documentElement.setAttribute("data-drawn", "yes"));
  dark.addEventListener("change", () => drawAll(dark.matches));
  window.addEventListener("beforeprint", () => drawAll(false, true));
  window.addEventListener("afterprint", () => drawAll(dark.matches));
})();
