"""A real server of mail for the tests: SMTP with STARTTLS, with TLS from the first byte, or with
neither. It prints its port, and then each mail that it took, as a line of JSON."""
import json, socket, ssl, sys, time
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

mode, certificate, key, user, password = sys.argv[1:6]


class Taker:
    async def handle_DATA(self, server, session, envelope):
        text = envelope.content.decode("utf-8", "replace")
        mail = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "text": text,
                "tls": mode == "implicit" or session.ssl is not None, "user": str(session.auth_data)}
        print(json.dumps(mail), flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    right = isinstance(data, LoginPassword) and \
        (data.login.decode(), data.password.decode()) == (user, password)
    if right:
        return AuthResult(success=True, auth_data=data.login.decode())
    # A server that says too much.
    given = data.password.decode() if isinstance(data, LoginPassword) else ""
    return AuthResult(success=False, handled=False, message="535 wrong password: " + given)


context = None
if mode != "none":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)


class Server(Controller):
    def factory(self):
        return SMTP(self.handler, authenticator=authenticate, hostname="localhost",
                    auth_required=bool(user), auth_require_tls=mode == "starttls",
                    tls_context=context if mode == "starttls" else None,
                    require_starttls=mode == "starttls")


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = Server(Taker(), hostname="127.0.0.1", port=port,
                ssl_context=context if mode == "implicit" else None)
server.start()
print(port, flush=True)
while sys.stdin.read(1):
    time.sleep(0.1)
server.stop()
