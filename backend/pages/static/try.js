// Lets a picture be dropped, pasted or taken, and shows it while Tandem looks at it.
(() => {
  const form = document.getElementById("picture");
  const file = document.getElementById("file");
  const camera = document.getElementById("camera");
  const drop = document.getElementById("drop");
  const preview = document.getElementById("preview");
  const seen = document.getElementById("seen");
  const limit = Number(form.dataset.limit);

  function say(text) {
    const article = document.createElement("article");
    article.className = "alarm";
    article.id = "refused";
    article.textContent = text;
    seen.replaceChildren(article);
  }

  function choose(files) {
    if (!files.length) return;
    file.files = files;
    look();
  }

  function look() {
    const [picture] = file.files;
    if (!picture) return;
    URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(picture);
    preview.hidden = false;
    if (picture.size > limit) {
      say(`The file has ${picture.size.toLocaleString()} bytes, more than the ${limit.toLocaleString()} that are looked at.`);
      return;
    }
    form.requestSubmit();
  }

  file.addEventListener("change", look);
  camera.addEventListener("change", () => choose(camera.files));
  document.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files].filter((each) => each.type.startsWith("image/"));
    if (!pasted.length) return;
    const transfer = new DataTransfer();
    transfer.items.add(pasted[0]);
    choose(transfer.files);
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      // A picture dropped beside the field would replace the page.
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") choose(event.dataTransfer.files);
    });
  }
  preview.addEventListener("error", () => {
    preview.hidden = true;
  });
  form.addEventListener("htmx:sendError", () => say("Tandem did not answer. Is the picture too large, or Tandem gone?"));
  form.addEventListener("htmx:responseError", (event) => say(`Tandem refused: ${event.detail.xhr.statusText || event.detail.xhr.status}`));
})();
