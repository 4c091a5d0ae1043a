/* What Portrait Layout's canvas looks like: an SVG of the picture's shape with a box, a label and four corners for each person. */

export const HEIGHT = 320; // px, the least of the canvas
export const EDGES = ["left", "top", "right", "bottom"];
const HELP = "Drag a box, or its corners. Keys: arrows move, Shift and arrows resize.";

function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(element, attributes);
  parent?.append(element);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

export class LayoutView {
  /** `facts`: colors and dashes, of as many people as there can be. */
  constructor(facts) {
    this.facts = facts;
    this.build();
  }

  /** Where a pointer is, in shares of the picture. */
  share(event) {
    const area = this.paper.getBoundingClientRect();
    return [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  }

  build() {
    this.element = document.createElement("div");
    this.element.className = "dhd-layout";
    this.element.style.cssText = `width: 100%; height: 100%; min-height: ${HEIGHT}px; box-sizing: border-box; user-select: none`;
    this.canvas = svg("svg", { role: "group", "aria-label": "Where the people are" });
    this.canvas.style.cssText = "display: block; width: 100%; height: 100%; touch-action: none; overflow: visible";
    this.element.append(this.canvas);
    svg("title", {}, this.canvas).textContent = HELP;
    this.paper = svg("rect", { fill: "#808080" }, this.canvas);
    this.picture = svg("image", { preserveAspectRatio: "xMidYMid slice" }, this.canvas);
    this.people = this.facts.colors.map((_, person) => this.buildPerson(person));
    this.trouble = svg("text", { "text-anchor": "middle", fill: "white", "pointer-events": "none" }, this.canvas);
    this.trouble.textContent = "no boxes: see the tooltips of preset and boxes";
    // Labels and corners lie over all boxes; where they meet, those of the box last touched are on top.
    for (const { group, grips } of this.people) {
      this.trouble.before(grips);
      group.addEventListener("focus", () => this.trouble.before(grips));
    }
  }

  buildPerson(person) {
    const color = this.facts.colors[person];
    const group = svg("g", { "data-person": person, tabindex: 0, role: "application" }, this.canvas);
    group.style.outline = "none";
    const halo = svg("rect", { fill: "none", stroke: "white", "stroke-opacity": 0.75 }, group); // to be seen on any background
    const area = svg("rect", { fill: color, "fill-opacity": 0.22, stroke: color, cursor: "move" }, group);
    const grips = svg("g", { "data-person": person }, this.canvas);
    const chip = svg("rect", { fill: color, cursor: "move" }, grips);
    const label = svg("text", { fill: "white", "font-weight": 700, "text-anchor": "middle", "pointer-events": "none" }, grips);
    label.setAttribute("dominant-baseline", "central");
    label.textContent = person + 1;
    const corners = ["left top", "right top", "left bottom", "right bottom"].map((edges) => {
      const cursor = edges === "left top" || edges === "right bottom" ? "nwse-resize" : "nesw-resize";
      return svg("circle", { "data-edges": edges, fill: "white", stroke: color, cursor }, grips);
    });
    return { group, grips, halo, area, chip, label, corners };
  }

  /** Boxes in shares, or null where they cannot be read; the picture's size in px; who is in front, from 1 on, or null. */
  draw({ size, boxes, front, background }) {
    const [width, height] = size;
    const unit = Math.max(width, height) / 100;
    set(this.canvas, { viewBox: `${-2 * unit} ${-2 * unit} ${width + 4 * unit} ${height + 4 * unit}` });
    set(this.paper, { width, height });
    set(this.picture, { width, height });
    this.drawBackground(background);
    this.trouble.style.display = boxes ? "none" : "";
    set(this.trouble, { x: width / 2, y: height / 2, "font-size": 3 * unit });
    for (const [person, parts] of this.people.entries()) {
      const box = boxes?.[person];
      for (const part of [parts.group, parts.grips]) part.style.display = box ? "" : "none";
      if (box) this.drawPerson(person, parts, box, person / Math.max(boxes.length - 1, 1), [width, height], unit);
    }
    this.stack((front ?? boxes?.length ?? 1) - 1);
  }

  /** Whoever is in front is drawn last. Moving the element that has the focus would take the focus away, so the others move. */
  stack(front) {
    const groups = this.people.map(({ group }) => group);
    const order = [...groups.filter((_, person) => person !== front), groups[front]];
    const drawn = [...this.canvas.children].filter((one) => groups.includes(one));
    if (order.every((group, place) => group === drawn[place])) return;
    const still = Math.max(order.indexOf(document.activeElement), 0);
    order[still].before(...order.slice(0, still));
    order[still].after(...order.slice(still + 1));
  }

  drawPerson(person, { group, halo, area, chip, label, corners }, box, across, [width, height], unit) {
    const [left, top, right, bottom] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
    const dash = this.facts.dashes[person];
    const line = (document.activeElement === group ? 1.3 : 0.8) * unit;
    const outline = { x: left, y: top, width: right - left, height: bottom - top };
    set(halo, { ...outline, "stroke-width": line + 0.5 * unit });
    set(area, { ...outline, "stroke-width": line });
    area.setAttribute("stroke-dasharray", dash ? dash.map((part) => part * 0.8 * unit).join(" ") : "none");
    const side = 8 * unit;
    const x = (1 - across) * left + across * (right - side); // the outer ones on the outer side, so that labels seldom meet
    set(chip, { x, y: top, width: side, height: side });
    set(label, { x: x + side / 2, y: top + side / 2, "font-size": 6.5 * unit });
    for (const corner of corners) {
      const edges = corner.dataset.edges;
      const center = { cx: edges.includes("left") ? left : right, cy: edges.includes("top") ? top : bottom };
      set(corner, { ...center, r: 1.6 * unit, "stroke-width": 0.6 * unit });
    }
    const percent = box.map((edge, k) => `${EDGES[k]} ${Math.round(100 * edge)} %`).join(", ");
    group.setAttribute("aria-label", `Person ${person + 1}: ${percent}`);
  }

  drawBackground(source) {
    if (source === this.source) return;
    this.source = source;
    if (source) this.picture.setAttribute("href", source);
    else this.picture.removeAttribute("href");
  }
}
