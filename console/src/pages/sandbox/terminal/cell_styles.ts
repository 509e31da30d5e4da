/**
 * Lets xterm colour its cells under the page's policy, which refuses style attributes: it sets them on spans, and
 * here they are set by script instead, which the policy allows. Imported before xterm is used.
 */

const setAttribute = HTMLSpanElement.prototype.setAttribute;

HTMLSpanElement.prototype.setAttribute = function (this: HTMLSpanElement, name: string, value: string): void {
  if (name === "style") this.style.cssText = value;
  else setAttribute.call(this, name, value);
};

export {};
