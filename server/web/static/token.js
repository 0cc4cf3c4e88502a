// The server's token: from the address's fragment, which is never sent to a server, or typed in. It stays in this
// tab's session storage, and leaves the address bar so that it is not copied along with the address.

const KEY = "s2mesh-token";

// Reads `#token=...` if there is one and removes it from the address; else what this tab already holds, or null.
export function takeToken() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token) {
    fragment.delete("token");
    const rest = fragment.toString();
    history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
    keepToken(token);
  }
  return token || sessionStorage.getItem(KEY);
}

export function keepToken(token) {
  sessionStorage.setItem(KEY, token.trim());
}

export function dropToken() {
  sessionStorage.removeItem(KEY);
}
