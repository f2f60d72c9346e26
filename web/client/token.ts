// What a client has to know of its token: when it expires. Pure.

/** When a JSON Web Token expires (RFC 7519, 4.1.4), in milliseconds since 1970; undefined where it does not say. */
export function expiry(token: string | null): number | undefined {
  try {
    const claims = atob(token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/"));
    return (JSON.parse(claims) as { exp: number }).exp * 1000 || undefined;
  } catch {
    return undefined;
  }
}
