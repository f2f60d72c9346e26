/** Return when a JSON Web Token expires (RFC 7519, 4.1.4), in milliseconds since 1970; undefined if it has no `exp`. */
export function tokenExpiry(token: string | null): number | undefined {
  try {
    const claims = atob(token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/"));
    return (JSON.parse(claims) as { exp: number }).exp * 1000 || undefined;
  } catch {
    return undefined;
  }
}
