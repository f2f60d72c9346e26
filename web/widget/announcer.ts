// The one place of the page where things are said aloud. In the light DOM, since VoiceOver on a phone hardly notices
// one in a shadow root, and one only, since several talk at once.

let place: HTMLElement | undefined;

/** Say something, after what is being said. Nothing but words: no token, no number that ticks. */
export function say(text: string): void {
  if (place === undefined || !place.isConnected) {
    place = document.createElement("tokenwire-announcer");
    place.setAttribute("role", "status");
    place.setAttribute("aria-live", "polite");
    // Not `display: none`, which would not be read. Set one by one: a policy refuses a style attribute.
    const look = {
      position: "fixed",
      width: "1px",
      height: "1px",
      overflow: "hidden",
      clipPath: "inset(50%)",
      whiteSpace: "nowrap",
      insetBlockStart: "0",
    };
    Object.assign(place.style, look);
    document.body.append(place);
  }
  const sentence = document.createElement("p");
  sentence.textContent = text;
  place.append(sentence);
  // What was read long ago is not to be found there by somebody who browses the page.
  while (place.childNodes.length > 3) place.firstChild?.remove();
}
