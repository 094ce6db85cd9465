// shows one layer at a time, and the number under the pointer; without it everything is shown
const chooser = document.getElementById("layer");
function show() {
  for (const part of document.querySelectorAll(".of-layer")) {
    part.hidden = part.dataset.layer !== chooser.value;
  }
}
document.documentElement.classList.add("scripted");
chooser.addEventListener("change", show);
show();
document.addEventListener("pointermove", (event) => {
  const picture = event.target.closest && event.target.closest("svg");
  if (!picture) return;
  const box = picture.getBoundingClientRect(), at = picture.dataset;
  const x = Math.floor((event.clientX - box.left - at.left) / at.width);
  const y = Math.floor((event.clientY - box.top - at.top) / at.height);
  const figure = picture.closest("figure"), table = figure.querySelector("table");
  const row = table.tBodies[0].rows[y], cell = row && x >= 0 && row.cells[x + 1];
  const names = table.tHead.rows[0].cells;
  figure.querySelector("output").textContent = cell
    ? names[0].textContent + " " + row.cells[0].textContent + ", expert "
      + names[x + 1].textContent + ": " + cell.textContent : "";
});
