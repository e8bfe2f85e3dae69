// Connect one terminal to several consoles at once, such as a screen and a serial line: output goes to all of them, and
// input may come from any. Only an ISO needs this, because it can't know which console is in use.
//
// relay DEVICE...: print the terminal's name, rows and columns, and continue in the background. The size fits on all
// consoles that report theirs, or is 24x80 if none does. A console that accepts no output (such as an unused serial
// line) doesn't delay the others: its output is buffered up to a limit, and then dropped.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { MOST = 8, WAITING = 1 << 16, CHUNK = 4096 };

struct console {
    int fd;
    size_t from, count; // of the ring buffer
    char waiting[WAITING];
};

static struct console consoles[MOST];
static int used;

// Add a console in raw mode: the terminal in front of it handles editing and line endings.
static void add(const char * device) {
    int fd = open(device, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    struct termios mode;
    if (fd < 0 || used == MOST || tcgetattr(fd, &mode) != 0) {
        return;
    }
    cfmakeraw(&mode);
    mode.c_cflag |= CLOCAL | CREAD; // use serial lines without a carrier, too
    tcsetattr(fd, TCSANOW, &mode);
    consoles[used++].fd = fd;
}

static struct winsize common_size(void) {
    struct winsize all = {0};
    for (int i = 0; i < used; i++) {
        struct winsize one = {0};
        if (ioctl(consoles[i].fd, TIOCGWINSZ, &one) != 0 || one.ws_row == 0 || one.ws_col == 0) {
            continue;
        }
        all.ws_row = all.ws_row == 0 || one.ws_row < all.ws_row ? one.ws_row : all.ws_row;
        all.ws_col = all.ws_col == 0 || one.ws_col < all.ws_col ? one.ws_col : all.ws_col;
    }
    if (all.ws_row == 0) {
        all.ws_row = 24;
        all.ws_col = 80;
    }
    return all;
}

// Return whether an error is temporary.
static int passing(void) {
    return errno == EAGAIN || errno == EINTR;
}

// Write buffered output to a console, as much as it accepts.
static void flush(struct console * one) {
    while (one->fd >= 0 && one->count > 0) {
        size_t end = WAITING - one->from;
        ssize_t written = write(one->fd, one->waiting + one->from, one->count < end ? one->count : end);
        if (written <= 0) {
            if (written < 0 && !passing()) {
                close(one->fd);
                one->fd = -1; // poll skips it
            }
            return;
        }
        one->from = (one->from + written) % WAITING;
        one->count -= written;
    }
}

static void show(struct console * one, const char * text, size_t size) {
    for (size_t i = 0; i < size && one->count < WAITING; i++) {
        one->waiting[(one->from + one->count++) % WAITING] = text[i];
    }
    flush(one);
}

static void serve(int terminal) {
    static char text[CHUNK], keys[CHUNK];
    size_t typed = 0; // bytes in keys
    for (;;) {
        struct pollfd events[MOST + 1] = {{.fd = terminal, .events = POLLIN | (typed ? POLLOUT : 0)}};
        for (int i = 0; i < used; i++) {
            short wanted = (typed ? 0 : POLLIN) | (consoles[i].count ? POLLOUT : 0);
            events[i + 1] = (struct pollfd) {.fd = consoles[i].fd, .events = wanted};
        }
        if (poll(events, used + 1, -1) < 0 && errno != EINTR) {
            return;
        }
        ssize_t size = events[0].revents & POLLIN ? read(terminal, text, CHUNK) : 0;
        for (int i = 0; i < used; i++) {
            if (size > 0) {
                show(&consoles[i], text, size);
            } else if (events[i + 1].revents & POLLOUT) {
                flush(&consoles[i]);
            }
            if (!typed && (events[i + 1].revents & (POLLIN | POLLHUP | POLLERR))) {
                ssize_t got = read(consoles[i].fd, keys, CHUNK);
                if (got == 0 || (got < 0 && !passing())) { // the console has gone
                    close(consoles[i].fd);
                    consoles[i].fd = -1;
                }
                typed = got > 0 ? got : 0;
            }
        }
        if (typed) {
            ssize_t taken = write(terminal, keys, typed);
            if (taken > 0) {
                memmove(keys, keys + taken, typed - taken);
                typed -= taken;
            }
        }
    }
}

int main(int count, char ** devices) {
    for (int i = 1; i < count; i++) {
        add(devices[i]);
    }
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0) {
        perror("relay: no terminal");
        return 1;
    }
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    struct winsize size = common_size();
    ioctl(terminal, TIOCSWINSZ, &size);
    const char * name = ptsname(terminal);
    // Keep this open: without a user the terminal would hang up, and poll would return at once.
    if (name == NULL || open(name, O_RDWR | O_NOCTTY | O_CLOEXEC) < 0) {
        perror("relay: no terminal");
        return 1;
    }
    printf("%s %d %d\n", name, size.ws_row, size.ws_col);
    fflush(stdout);
    pid_t child = fork();
    if (child != 0) {
        return child < 0;
    }
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; fd++) { // or readers would wait for ever for the end of the output
        dup2(null, fd);
    }
    serve(terminal);
    return 1;
}
