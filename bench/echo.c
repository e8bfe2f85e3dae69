/* A server in place of llama-server, for the throughput of the channel: a client's first byte says what it wants.
 *
 * d and a number: so many bytes are read, and one is sent back. s and a number: so many are sent. e: all come back.
 * Numbers have eight bytes, the lowest first.
 */
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char buffer[1 << 18];

static void put(int to, size_t left)
{
    for (char * at = buffer; left > 0;) {
        ssize_t const sent = write(to, at, left);
        if (sent <= 0) {
            _exit(1);
        }
        at += sent;
        left -= (size_t) sent;
    }
}

static size_t take(int from, uint64_t most)
{
    ssize_t const got = read(from, buffer, most < sizeof buffer ? most : sizeof buffer);
    if (got <= 0) {
        _exit(0);
    }
    return (size_t) got;
}

static void serve(int client)
{
    unsigned char bytes[8];
    char kind;
    uint64_t left = 0;
    if (read(client, &kind, 1) != 1) {
        return;
    }
    if (kind == 'e') {
        for (;;) {
            put(client, take(client, sizeof buffer));
        }
    }
    if (recv(client, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes) {
        return;
    }
    for (int i = 7; i >= 0; i--) {
        left = left << 8 | bytes[i];
    }
    for (size_t now; left > 0; left -= now) {
        if (kind == 'd') {
            now = take(client, left);
        } else {
            put(client, now = left < sizeof buffer ? left : sizeof buffer);
        }
    }
    if (kind == 'd') {
        put(client, 1);
    }
}

int main(int argc, char ** argv)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--host") == 0) {
            strncpy(name.sun_path, argv[i + 1], sizeof name.sun_path - 1);
        }
    }
    int const door = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(door, (struct sockaddr *) &name, sizeof name) != 0 || listen(door, 8) != 0) {
        return 1;
    }
    signal(SIGCHLD, SIG_IGN);
    if (write(3, "prompt\n", 7) != 7) { /* the status port: the host may ask */
        return 1;
    }
    for (;;) {
        int const client = accept(door, NULL, NULL);
        if (client >= 0 && fork() == 0) {
            serve(client);
            _exit(0);
        }
        close(client);
    }
}
