for (const box of document.querySelectorAll(".compare")) {
  const range = box.querySelector("input");
  const show = () => {
    box.style.setProperty("--at", range.value + "%");
    range.setAttribute("aria-valuetext", range.value + " % " + range.dataset.before + ", the rest " + range.dataset.after);
  };
  range.hidden = false;
  range.addEventListener("input", show);
  show();
}
