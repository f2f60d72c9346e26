// The live region for screen readers. In the light DOM, because VoiceOver on iOS often ignores live regions in a shadow
// root. One for the page, because several live regions interrupt each other.

let region: HTMLElement | undefined;

/** Announce a sentence after the current one. Do not pass single tokens or countdowns. */
export function announce(text: string): void {
  if (region === undefined || !region.isConnected) {
    region = document.createElement("tokenwire-announcer");
    region.setAttribute("role", "status");
    region.setAttribute("aria-live", "polite");
    // `display: none` would hide it from screen readers. A strict policy blocks a style attribute, but not properties.
    const hiddenStyle = {
      position: "fixed",
      width: "1px",
      height: "1px",
      overflow: "hidden",
      clipPath: "inset(50%)",
      whiteSpace: "nowrap",
      insetBlockStart: "0",
    };
    Object.assign(region.style, hiddenStyle);
    document.body.append(region);
  }
  const sentence = document.createElement("p");
  sentence.textContent = text;
  region.append(sentence);
  // Remove old sentences, so that a user who browses the page with a screen reader does not find them.
  while (region.childNodes.length > 3) region.firstChild?.remove();
}
