/* The list of lessons: links `#learn/NAME`, so that each has an address; the one in the address is opened. */
const { make } = window.DiffuSpecDraw;
const nav = element.querySelector(".ds-contents");
const { lessons } = JSON.parse(props.value);
const wanted = () => /^#learn\/([\w-]+)$/.exec(location.hash)?.[1];
let at = null;

const mark = (name) => {
  at = name;
  for (const link of nav.querySelectorAll("a")) {
    if (link.dataset.lesson === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
};
const follow = () => {
  const name = wanted();
  if (!name || name === at || !nav.querySelector(`[data-lesson="${name}"]`)) return;
  mark(name);
  trigger("select", { lesson: name });
};

const list = make("ol");
for (const entry of lessons) {
  const item = make("li");
  const link = make("a");
  link.href = `#learn/${entry.name}`;
  link.dataset.lesson = entry.name;
  link.append(make("span", "ds-number", entry.number ? String(entry.number) : ""), make("span", "", entry.title));
  item.append(link);
  list.append(item);
}
nav.append(list);
mark(lessons[0].name);
follow();
addEventListener("hashchange", follow);
document.addEventListener("diffuspec-predicted", (event) => {
  const link = nav.querySelector(`[data-lesson="${event.detail}"]`);
  if (!link || link.querySelector(".ds-done")) return;
  const done = make("span", "ds-done", "✓");
  done.title = "predicted";
  link.append(done);
});
