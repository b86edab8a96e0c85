for (const box of document.querySelectorAll(".compare")) {
  const range = box.querySelector(".range"), swap = box.querySelector(".swap input");
  const show = () => {
    box.style.setProperty("--at", range.value + "%");
    const rest = swap && swap.checked ? swap.parentElement.textContent.trim() : range.dataset.after;
    range.setAttribute("aria-valuetext", range.value + " % " + range.dataset.before + ", the rest " + rest);
  };
  range.hidden = false;
  range.addEventListener("input", show);
  if (swap) swap.addEventListener("change", show);
  show();
}
