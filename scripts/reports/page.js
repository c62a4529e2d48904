// Shows the text of a mark at once, where the browser's own tip comes late and cannot be styled;
// saves pictures; says where a table or a picture can be scrolled; keeps the axes of curves alike.
// Without this the tips are still there, as titles, and so are the switches and the tables' files.
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

  // The first rule of the style sheet: colours for paper, whatever the screen has now.
  const palette = document.styleSheets[0].cssRules[0].style;
  const onPaper = (text) => text.replace(/var\(--([\w-]+)\)/g, (_, name) =>
    palette.getPropertyValue(`--${name}`).trim().replaceAll('"', "'"));

  // The picture as a file of its own, at `scale` times its size.
  const standalone = (shown, scale) => {
    const svg = shown.cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
    svg.removeAttribute("style");
    for (const mark of svg.querySelectorAll("[data-tip]")) {
      const title = document.createElementNS(svg.namespaceURI, "title");
      title.textContent = mark.dataset.tip;
      mark.append(title);
      mark.removeAttribute("data-tip");
    }
    const ground = document.createElementNS(svg.namespaceURI, "rect");
    for (const [key, value] of [["width", "100%"], ["height", "100%"], ["fill", "#ffffff"]])
      ground.setAttribute(key, value);
    svg.querySelector("desc").after(ground);
    return onPaper(new XMLSerializer().serializeToString(svg));
  };
  const save = (address, name) => {
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
  };
  const savePng = (svg, name) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = image.width;
      canvas.height = image.height;
      canvas.getContext("2d").drawImage(image, 0, 0);
      save(canvas.toDataURL("image/png"), name);
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(svg, 3))}`;
  };
  for (const figure of document.querySelectorAll("figure")) {
    const stem = figure.dataset.name.toLowerCase().replace(/[^a-z0-9.]+/g, "-");
    const shown = () => [...figure.querySelectorAll("svg")].find((svg) => svg.getClientRects().length);
    const line = document.createElement("p");
    line.className = "take";
    for (const form of ["SVG", "PNG"]) {
      const button = document.createElement("button");
      button.textContent = form;
      button.addEventListener("click", () => {
        if (form === "PNG") savePng(shown(), `${stem}.png`);
        else save(`data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(shown(), 1))}`, `${stem}.svg`);
      });
      line.append(button);
    }
    figure.querySelector("figcaption").before(line);
  }

  const hints = () => {
    for (const part of document.querySelectorAll(".box")) {
      const scrolls = [...part.querySelectorAll(".scroll")].some((each) =>
        each.scrollWidth > each.clientWidth + 1 && each.scrollLeft + each.clientWidth < each.scrollWidth - 1);
      part.querySelector(".hint").hidden = !scrolls;
    }
  };
  addEventListener("resize", hints);
  document.addEventListener("scroll", hints, { passive: true, capture: true });
  document.addEventListener("toggle", hints, { capture: true });
  hints();

  document.addEventListener("change", (event) => {
    if (event.target.type !== "radio") return;
    for (const other of document.querySelectorAll(`input.${event.target.className}`)) other.checked = true;
    hints();
  });
})();
