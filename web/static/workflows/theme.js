// Before the first paint: the theme that was chosen here, else the system's.
(() => {
  const chosen = (() => {
    try {
      return localStorage.getItem("ironflow.theme");
    } catch {
      return null;
    }
  })();
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.theme = chosen ?? (system.matches ? "dark" : "light");
  };
  apply();
  if (!chosen) system.addEventListener("change", apply);
})();
