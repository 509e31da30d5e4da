/** The version of this package, as its package.json and Bay's own package have it. */
export const VERSION = "0.1.0";
