// The regions of a page that is set: of each element with `data-region`, what shows of it.
//
// Returns [{class_name, lines: [[x_min, y_min, x_max, y_max], ...]}, ...] in CSS pixels of the page, one
// for each column that an element runs through. A line of type reaches from its descenders to the top of
// its capitals, whatever letters it has, as the boxes of characters in a PDF do. What would be cut by
// the edge of a zone is taken away, and what follows moves up; null where that does not end.
() => {
  const context = document.createElement("canvas").getContext("2d");
  const known = new Map();
  const EAST_ASIAN = /[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]/;

  function metrics(style) {
    const font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    if (!known.has(font)) {
      context.font = font;
      const measured = context.measureText("x");
      known.set(font, [measured.fontBoundingBoxAscent, measured.fontBoundingBoxDescent]);
    }
    return known.get(font);
  }

  function lineOf(rect, style, text) {
    const size = parseFloat(style.fontSize);
    if (style.writingMode.startsWith("vertical")) {
      const middle = (rect.left + rect.right) / 2;
      return [middle - size / 2, rect.top, middle + size / 2, rect.bottom];
    }
    const [ascent, descent] = metrics(style);
    const baseline = rect.top + (rect.height * ascent) / (ascent + descent);
    const below = EAST_ASIAN.test(text) ? 0.13 : 0.21;
    return [rect.left, baseline - (1 - below) * size, rect.right, baseline + below * size];
  }

  function typeIn(element) {
    const lines = [];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    while (walker.nextNode()) {
      const node = walker.currentNode;
      if (!node.data.trim()) continue;
      const style = getComputedStyle(node.parentElement);
      range.selectNodeContents(node);
      for (const rect of range.getClientRects())
        if (rect.width > 0.5 && rect.height > 0.5) lines.push(lineOf(rect, style, node.data));
    }
    return lines;
  }

  function boxOf(rect) {
    return [rect.left, rect.top, rect.right, rect.bottom];
  }

  function picturesIn(element) {
    return [...element.querySelectorAll("img, svg, .ink")].flatMap((each) =>
      [...each.getClientRects()].map(boxOf),
    );
  }

  function shows(color) {
    return color !== "transparent" && !/^rgba\(.*, 0\)$/.test(color);
  }

  // Rules and grounds of a table; a rule is a box of no height or no width.
  function rulesIn(table) {
    const lines = [];
    for (const each of [table, ...table.querySelectorAll("thead, tbody, tr, th, td")]) {
      const style = getComputedStyle(each);
      for (const { left, top, right, bottom } of each.getClientRects()) {
        if (shows(style.backgroundColor)) lines.push([left, top, right, bottom]);
        const drawn = (side) =>
          parseFloat(style[`border${side}Width`]) > 0 && shows(style[`border${side}Color`]);
        if (drawn("Top")) lines.push([left, top, right, top]);
        if (drawn("Bottom")) lines.push([left, bottom, right, bottom]);
        if (drawn("Left")) lines.push([left, top, left, bottom]);
        if (drawn("Right")) lines.push([right, top, right, bottom]);
      }
    }
    return lines;
  }

  function inkOf(element) {
    const kind = element.dataset.region;
    if (kind === "figure") return [...element.getClientRects()].map(boxOf);
    const type = [...typeIn(element), ...picturesIn(element)];
    return kind === "table" ? [...type, ...rulesIn(element)] : type;
  }

  // The regions, and the elements that are cut.
  function measure() {
    const regions = [];
    const cut = [];
    for (const element of document.querySelectorAll("[data-region]")) {
      const zone = (element.closest(".zone") ?? document.body).getBoundingClientRect();
      const pieces = [...element.getClientRects()];
      const lines = pieces.map(() => []);
      const within = (line, margin) =>
        line[0] > zone.left - margin && line[2] < zone.right + margin && line[1] > zone.top - margin && line[3] < zone.bottom + margin;
      const beside = (line) =>
        line[0] >= zone.right - 2 || line[2] <= zone.left + 2 || line[1] >= zone.bottom - 2 || line[3] <= zone.top + 2;
      let whole = true;
      for (const line of inkOf(element)) {
        const [x, y] = [(line[0] + line[2]) / 2, (line[1] + line[3]) / 2];
        const away = (piece) =>
          Math.max(piece.left - x, x - piece.right, 0) + Math.max(piece.top - y, y - piece.bottom, 0);
        const nearest = pieces.reduce((best, piece, at) => (away(piece) < away(pieces[best]) ? at : best), 0);
        if (within(line, 6)) lines[nearest].push(line);
        else if (!beside(line)) whole = false;
      }
      if (!whole) cut.push(element);
      else
        for (const each of lines)
          if (each.length) regions.push({ class_name: element.dataset.region, lines: each });
    }
    return [regions, cut];
  }

  for (let attempt = 0; attempt < 6; attempt++) {
    const [regions, cut] = measure();
    if (!cut.length) return regions;
    for (const element of cut) (element.closest(".float") ?? element).remove();
  }
  return null;
}
