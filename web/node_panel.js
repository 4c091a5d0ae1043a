/* What the pack's panels on nodes share. */

/** Call `after` with the arguments of `owner[name]` whenever that has been called. */
export function chain(owner, name, after) {
  const before = owner[name];
  owner[name] = function (...all) {
    const result = before?.apply(this, all);
    after(...all);
    return result;
  };
}

/** After undo Nodes 2.0 still shows the panel of the node that this one, of the same number, stands in for: put this one's there.
 *
 * `element` has the class `name`, and the node's number as `data-node`. */
export function takeOver(element, name, number) {
  requestAnimationFrame(() => {
    const shown = [...document.querySelectorAll(`.${name}[data-node="${number}"]`)];
    if (!shown.includes(element)) shown[0]?.replaceWith(element);
  });
}
