/* Light, dark or the system's choice. A blocking script: the remembered theme is set before the first paint. */
(() => {
  "use strict";

  const NAME = "tidegate.theme";
  const THEMES = { system: ["light", "system"], light: ["dark", "sun"], dark: ["system", "moon"] }; // theme: [next, icon]
  let theme = "system";
  try { theme = localStorage.getItem(NAME); } catch { /* storage is switched off */ }
  if (!Object.hasOwn(THEMES, theme)) theme = "system";

  function apply() {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }
  apply();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");

    function show() {
      const [next, icon] = THEMES[theme];
      button.querySelector("use").setAttribute("href", `#i-${icon}`);
      button.title = `Theme: ${theme}`;
      button.setAttribute("aria-label", `Theme: ${theme}. Change to ${next}`);
    }

    button.addEventListener("click", () => {
      [theme] = THEMES[theme];
      try { localStorage.setItem(NAME, theme); } catch { /* forgotten at the next load */ }
      apply();
      show();
    });
    show();
  });
})();
