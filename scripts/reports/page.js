// Shows the text of a mark at once, where the browser's own tip comes late and cannot be styled.
// Without this the tips are still there, as titles.
(() => {
  const box = document.createElement("div");
  box.className = "tipbox";
  box.hidden = true;
  document.body.append(box);
  for (const title of document.querySelectorAll("svg .tip > title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.("[data-tip]");
    box.hidden = !mark;
    if (!mark) return;
    box.textContent = mark.dataset.tip;
    const place = mark.getBoundingClientRect();
    const left = place.left + place.width / 2 - box.offsetWidth / 2;
    box.style.left = `${Math.max(8, Math.min(left, innerWidth - box.offsetWidth - 8))}px`;
    const above = place.top - box.offsetHeight - 8;
    box.style.top = `${above > 8 ? above : place.bottom + 8}px`;
  });
  document.addEventListener("scroll", () => { box.hidden = true; }, { passive: true });
})();
