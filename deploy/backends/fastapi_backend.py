"""Signs Tokenwire tokens in FastAPI: GET /token, for signed-in users and for anonymous visitors."""

import os
import re
import secrets
import time
from typing import Annotated

import jwt
from fastapi import Cookie, FastAPI
from fastapi.responses import PlainTextResponse

KEY = os.environ["TOKENWIRE_JWT_KEY"]  # the gateway's secret, at least 32 bytes
USERS = {"session-of-ann": "ann"}  # replace with your own session check
app = FastAPI()


@app.get("/token")
def token(session: Annotated[str, Cookie()] = "", visitor: Annotated[str, Cookie()] = "") -> PlainTextResponse:
    """Return a token for 15 minutes. It opens the conversations whose names start with the subject and a dot."""
    if (user := USERS.get(session)) is not None:
        subject = f"user.{user.encode().hex()}"  # hex: no user id is the prefix of another one's names
    else:
        visitor = visitor if re.fullmatch("[0-9a-f]{32}", visitor) else secrets.token_hex(16)
        subject = f"visitor.{visitor}"
    claims = {"sub": subject, "exp": int(time.time()) + 900, "conversations": [f"{subject}.*"]}
    response = PlainTextResponse(jwt.encode(claims, KEY, "HS256"), headers={"cache-control": "no-store"})
    if user is None:
        response.set_cookie("visitor", visitor, max_age=30 * 86_400, httponly=True, secure=True, samesite="lax")
    return response
