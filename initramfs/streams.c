// Carry streams of bytes between the host and a server in the guest, over one virtio-serial port. What goes over the
// port is specified in docs/channel.md.
//
// zosia-streams PORT SOCKET: for each stream that the host opens, connect to the UNIX socket of that path. "-" is
// standard input as the port, both ways. It ends only when the host breaks the protocol, with a line that says how.
//
// All memory is static, and what the other side sends decides about none of it.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HELLO = 1, OPEN, DATA, SHUT, CLOSE, CREDIT };
enum {
    STREAMS = 64, // at a time
    HEADER = 8,
    PAYLOAD = 32768, // bytes, at most
    WINDOW = 262144, // bytes that each direction of a stream begins with
    PORTION = WINDOW / 4, // the least that is granted
    GREETING = 20, // "zos1" and a nonce
    FULL = HEADER + PAYLOAD,
    ANSWER = HEADER + GREETING, // the longest answer to a frame
    ABSENT = 100, // milliseconds between looks for a host that has gone
    BUSY = 20, // milliseconds between attempts at a server whose queue is full
};
#define MOST_CREDIT 0x7fffffffu

struct stream {
    uint32_t id; // 0 if this place is free
    int fd; // -1 until it is connected, and once it is lost
    uint32_t credit; // bytes that the host has room for
    uint32_t room; // bytes that the host may send
    uint32_t consumed; // bytes that the server took, and that the host was not told of yet
    bool got_shut, sent_shut; // from and to the host
    bool told; // the server knows of the host's SHUT
    bool deaf; // the server takes no more: what comes is dropped
    bool lost; // the host gets CLOSE as soon as there is room for it
    size_t from, count; // of the ring buffer
    unsigned char waiting[WINDOW];
};

static struct stream streams[STREAMS];
static struct pollfd events[STREAMS + 1]; // the last is the port's
static struct sockaddr_un server = {.sun_family = AF_UNIX};
static int port;
static bool absent; // the port has no host now
static bool greeted;
static bool held; // something waits for room in the output, and for nothing else
static uint32_t newest;
static unsigned char in[2 * FULL], out[4 * FULL];
static size_t in_count, out_from, out_count;

static void die(const char * why) {
    fprintf(stderr, "zosia-streams: %s\n", why);
    exit(1);
}

static void breach(const char * why) {
    fprintf(stderr, "zosia-streams: the host broke the channel's protocol: %s\n", why);
    exit(1);
}

// Return whether an error is temporary.
static bool passing(void) {
    return errno == EAGAIN || errno == EINTR;
}

static uint32_t number(const unsigned char * at) {
    return (uint32_t) at[0] << 24 | (uint32_t) at[1] << 16 | (uint32_t) at[2] << 8 | at[3];
}

static void put_number(unsigned char * at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = value >> (24 - 8 * i);
    }
}

// Return whether a frame with such a payload fits into the output.
static bool fits(size_t length) {
    return out_count + HEADER + length <= sizeof out;
}

// Return the place of the next frame's payload. Nothing is sent of it before `send_frame`.
static unsigned char * next_payload(size_t length) {
    if (out_from + out_count + HEADER + length > sizeof out) {
        memmove(out, out + out_from, out_count);
        out_from = 0;
    }
    return out + out_from + out_count + HEADER;
}

static void send_frame(int kind, uint32_t id, size_t length) {
    unsigned char * header = next_payload(length) - HEADER;
    header[0] = kind;
    header[1] = 0;
    header[2] = length >> 8;
    header[3] = length;
    put_number(header + 4, id);
    out_count += HEADER + length;
}

static void release(struct stream * one) {
    if (one->fd >= 0) {
        close(one->fd);
    }
    one->fd = -1;
    one->id = 0;
}

static void lose(struct stream * one) {
    if (one->fd >= 0) {
        close(one->fd);
    }
    one->fd = -1;
    one->count = 0;
    one->lost = true;
}

static struct stream * find(uint32_t id) {
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i].id == id) {
            return &streams[i];
        }
    }
    return NULL;
}

// Connect to the server. If its queue of connections is full, the next round tries again.
static void join(struct stream * one) {
    one->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (one->fd < 0) {
        lose(one);
    } else if (connect(one->fd, (struct sockaddr *) &server, sizeof server) != 0) {
        if (passing()) {
            close(one->fd);
            one->fd = -1;
        } else {
            lose(one);
        }
    }
}

// Give the server what waits for it, as much as it takes, and then the host's SHUT.
static void push(struct stream * one) {
    while (one->fd >= 0 && one->count > 0) {
        size_t end = WINDOW - one->from;
        ssize_t taken = one->count;
        if (!one->deaf) {
            taken = write(one->fd, one->waiting + one->from, one->count < end ? one->count : end);
        }
        if (taken < 0 && passing()) {
            return;
        }
        if (taken < 0) { // its answer may still come: a server need not read all of a request
            one->deaf = true;
            continue;
        }
        one->count -= taken;
        one->consumed += taken;
        one->from = one->count > 0 ? (one->from + taken) % WINDOW : 0; // few bytes use little memory
    }
    if (one->fd >= 0 && one->got_shut && !one->told) {
        shutdown(one->fd, SHUT_WR);
        one->told = true;
    }
}

// Send the host what the server says.
static void pull(struct stream * one) {
    size_t most = one->credit < PAYLOAD ? one->credit : PAYLOAD;
    ssize_t got = read(one->fd, next_payload(most), most);
    if (got > 0) {
        one->credit -= got;
        send_frame(DATA, one->id, got);
    } else if (got == 0) {
        one->sent_shut = true;
        send_frame(SHUT, one->id, 0);
    } else if (!passing()) { // a server that ends with bytes unread has reset it
        lose(one);
    }
}

// Return whether there is something to read from the server, and room for it.
static bool wants(const struct stream * one) {
    return !one->sent_shut && one->credit > 0 && fits(PAYLOAD);
}

static void open_stream(uint32_t id) {
    if (id <= newest) {
        breach("OPEN of an old stream");
    }
    newest = id;
    struct stream * one = find(0);
    // A stream that was SHUT both ways is over for the host. It can't keep its place for a server that doesn't read on.
    for (int i = 0; one == NULL && i < STREAMS; i++) {
        if (streams[i].got_shut && streams[i].sent_shut) {
            one = &streams[i];
            release(one);
        }
    }
    if (one == NULL) {
        send_frame(CLOSE, id, 0);
        return;
    }
    one->id = id;
    one->fd = -1;
    one->credit = one->room = WINDOW;
    one->consumed = 0;
    one->got_shut = one->sent_shut = one->told = one->deaf = one->lost = false;
    one->from = one->count = 0;
    join(one);
}

static void take_data(struct stream * one, const unsigned char * payload, size_t length) {
    if (one->got_shut) {
        breach("DATA after SHUT");
    }
    if (length > one->room) {
        breach("more DATA than the window");
    }
    one->room -= length;
    if (one->lost) {
        return;
    }
    size_t at = (one->from + one->count) % WINDOW;
    size_t first = length < WINDOW - at ? length : WINDOW - at;
    memcpy(one->waiting + at, payload, first);
    memcpy(one->waiting, payload + first, length - first);
    one->count += length;
    push(one);
}

static void greet(uint32_t id, const unsigned char * payload) {
    if (id != 0 || memcmp(payload, "zos1", 4) != 0) {
        breach("HELLO of another protocol");
    }
    for (int i = 0; i < STREAMS; i++) {
        release(&streams[i]);
    }
    newest = 0;
    greeted = true;
    memcpy(next_payload(GREETING), payload, GREETING);
    send_frame(HELLO, 0, GREETING);
}

static void check(const unsigned char * header, size_t length) {
    static const size_t most[] = {0, GREETING, 0, PAYLOAD, 0, 0, 4};
    int kind = header[0];
    if (kind < HELLO || kind > CREDIT || header[1] != 0) {
        breach("unknown kind of frame");
    }
    if (kind == DATA ? length < 1 || length > PAYLOAD : length != most[kind]) {
        breach("wrong length of a frame");
    }
    if (kind != HELLO && !greeted) {
        breach("no HELLO");
    }
}

static void handle(int kind, uint32_t id, const unsigned char * payload, size_t length) {
    if (kind == HELLO) {
        greet(id, payload);
        return;
    }
    if (kind == OPEN) {
        open_stream(id);
        return;
    }
    uint32_t amount = kind == CREDIT ? number(payload) : 1;
    if (amount < 1 || amount > MOST_CREDIT + 1) {
        breach("wrong amount of CREDIT");
    }
    struct stream * one = id == 0 ? NULL : find(id);
    if (one == NULL) {
        return; // closed meanwhile
    }
    if (kind == DATA) {
        take_data(one, payload, length);
    } else if (kind == CLOSE) {
        release(one);
    } else if (kind == CREDIT) {
        if (amount > MOST_CREDIT - one->credit) {
            breach("too much CREDIT");
        }
        one->credit += amount;
    } else {
        if (one->got_shut) {
            breach("SHUT after SHUT");
        }
        one->got_shut = true;
        push(one);
    }
}

// Handle the frames that have come, as long as their answers fit into the output.
static void handle_input(void) {
    size_t from = 0;
    while (in_count - from >= HEADER) {
        if (!fits(ANSWER)) {
            held = true;
            break;
        }
        const unsigned char * header = in + from;
        size_t length = (size_t) header[2] << 8 | header[3];
        check(header, length);
        if (in_count - from < HEADER + length) {
            break;
        }
        handle(header[0], number(header + 4), header + HEADER, length);
        from += HEADER + length;
    }
    memmove(in, in + from, in_count - from);
    in_count -= from;
}

// Do what a stream is ready for.
static void attend(struct stream * one, short ready) {
    if (one->fd < 0 && !one->lost) {
        join(one);
    }
    push(one);
    if (one->fd >= 0 && ready != 0 && wants(one)) {
        pull(one);
    }
    bool owes = one->consumed >= PORTION && !one->got_shut;
    if (one->sent_shut && one->told) {
        release(one);
    } else if ((one->lost || owes) && !fits(ANSWER)) {
        held = true;
    } else if (one->lost) {
        send_frame(CLOSE, one->id, 0);
        release(one);
    } else if (owes) {
        put_number(next_payload(4), one->consumed);
        send_frame(CREDIT, one->id, 4);
        one->room += one->consumed;
        one->consumed = 0;
    }
}

static void read_port(void) {
    ssize_t got = read(port, in + in_count, sizeof in - in_count);
    if (got > 0) {
        in_count += got;
    } else {
        absent = got == 0 || !passing();
    }
}

static void write_port(void) {
    ssize_t sent = out_count > 0 ? write(port, out + out_from, out_count) : 0;
    if (sent > 0) {
        out_count -= sent;
        out_from = out_count > 0 ? out_from + sent : 0;
    } else if (sent < 0 && !passing()) {
        absent = true;
    }
}

// Wait for what can be done now, and for nothing else: poll reports a hangup even if no event is requested.
static void wait_for_events(void) {
    int pause = absent ? ABSENT : -1;
    for (int i = 0; i < STREAMS; i++) {
        const struct stream * one = &streams[i];
        short wanted = (wants(one) ? POLLIN : 0) | (one->count > 0 ? POLLOUT : 0);
        bool open = one->id != 0 && one->fd >= 0;
        if (one->id != 0 && !open && !one->lost && !absent) {
            pause = BUSY;
        }
        events[i] = (struct pollfd) {.fd = open && wanted ? one->fd : -1, .events = wanted};
    }
    if (held && fits(ANSWER)) {
        pause = 0;
    }
    held = false;
    short wanted = (in_count < sizeof in ? POLLIN : 0) | (out_count > 0 ? POLLOUT : 0);
    events[STREAMS] = (struct pollfd) {.fd = absent ? -1 : port, .events = wanted};
    absent = false;
    if (poll(events, STREAMS + 1, pause) < 0) {
        if (errno != EINTR) {
            die("poll failed");
        }
        memset(events, 0, sizeof events);
    }
}

static void serve(void) {
    static int turn; // the stream that is served first
    for (;;) {
        wait_for_events();
        short ready = events[STREAMS].revents;
        if (ready & POLLIN) {
            read_port();
        } else if (ready & (POLLHUP | POLLERR | POLLNVAL)) {
            absent = true;
        }
        handle_input();
        int first = turn;
        for (int i = 0; i < STREAMS; i++) {
            int place = (first + i) % STREAMS;
            if (streams[place].id != 0) {
                size_t before = out_count;
                attend(&streams[place], events[place].revents);
                turn = out_count > before ? (place + 1) % STREAMS : turn;
            }
        }
        write_port();
    }
}

int main(int count, char ** words) {
    if (count != 3 || strlen(words[2]) >= sizeof server.sun_path) {
        die("expected a port and the path of a socket");
    }
    strcpy(server.sun_path, words[2]);
    port = strcmp(words[1], "-") == 0 ? 0 : open(words[1], O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (port < 0 || fcntl(port, F_SETFL, O_NONBLOCK) != 0) {
        die("the port can't be opened");
    }
    for (int i = 0; i < STREAMS; i++) {
        streams[i].fd = -1;
    }
    signal(SIGPIPE, SIG_IGN);
    serve();
}
