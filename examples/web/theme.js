/* Light or dark, before anything is painted: the visitor's choice, or else the system's. */
(() => {
  const system = matchMedia('(prefers-color-scheme: dark)');
  const chosen = () => {
    try { return localStorage.getItem('theme'); } catch { return null; }
  };
  const apply = () => {
    document.documentElement.dataset.theme = chosen() ?? (system.matches ? 'dark' : 'light');
    dispatchEvent(new Event('themechange'));
  };
  apply();
  system.addEventListener('change', apply);
  matchMedia('(forced-colors: active)').addEventListener('change', apply);
  addEventListener('DOMContentLoaded', () => {
    document.getElementById('theme').addEventListener('click', () => {
      const next = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
      try { localStorage.setItem('theme', next); } catch { /* Not kept, then. */ }
      document.documentElement.dataset.theme = next;
      dispatchEvent(new Event('themechange'));
    });
  });

  /* A page whose modules do not start says so; app.js takes over from here once it runs. */
  addEventListener('error', (event) => {
    if (document.documentElement.dataset.started || event.target?.tagName === 'LINK') return;
    const notice = document.getElementById('notice');
    if (!notice) return;
    document.getElementById('notice-title').textContent = 'The page could not start.';
    const file = location.protocol === 'file:';
    document.getElementById('notice-text').textContent = file
      ? 'Browsers run it only from a server. Serve its folder, for example with python3 -m http.server, and open http://localhost:8000.'
      : 'A part of it did not load, or this browser is too old for it. Load it again, or use a current Chrome, Edge, Firefox or Safari.';
    const button = document.getElementById('notice-action');
    button.textContent = 'Load again';
    button.hidden = file;
    button.onclick = () => location.reload();
    notice.hidden = false;
  }, true);
})();
