/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `strongroom nbd [-f FMT] [-r] [-k SOCK | -b ADDR -p PORT] [-x NAME] [-e N] [-t] FILE`, with
 * qemu-nbd's letters: put into the same words that anyone could have typed, and nothing more.
 * The format is raw unless said, never guessed. It serves until SIGTERM with or without -t, to as
 * many clients at a time as --nbd-server lets in by default.
 */
#include "board/host/host.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 3
#define MAX_WORDS  8

struct nbd_words {
    const char *format, *socket, *bind, *port, *name, *shared, *file;
    bool read_only;
};

static const char nbd_usage[] =
    "usage: strongroom nbd [-f FMT] [-r] [-k SOCK | -b ADDR -p PORT] [-x NAME] [-e N] [-t] FILE\n"
    "  -f, --format=FMT       format of FILE (raw)\n"
    "  -r, --read-only        export read-only\n"
    "  -k, --socket=SOCK      listen on this unix socket\n"
    "  -b, --bind=ADDR        listen on this address (0.0.0.0)\n"
    "  -p, --port=PORT        ... and port (10809)\n"
    "  -x, --export-name=NAME name of the export (the empty one)\n"
    "  -e, --shared=N         clients at a time (100)\n"
    "  -t, --persistent       go on when the last client has gone (it always does)\n";

static const struct option long_words[] = {
    {"format", required_argument, NULL, 'f'}, {"read-only", no_argument, NULL, 'r'},
    {"socket", required_argument, NULL, 'k'}, {"bind", required_argument, NULL, 'b'},
    {"port", required_argument, NULL, 'p'},   {"export-name", required_argument, NULL, 'x'},
    {"shared", required_argument, NULL, 'e'}, {"persistent", no_argument, NULL, 't'},
    {"help", no_argument, NULL, 'h'},         {0},
};

/* -1: go on; else the status to leave with. */
static int take_word(struct nbd_words *w, int letter)
{
    switch (letter) {
    case 'f':
        w->format = optarg;
        return -1;
    case 'r':
        w->read_only = true;
        return -1;
    case 'k':
        w->socket = optarg;
        return -1;
    case 'b':
        w->bind = optarg;
        return -1;
    case 'p':
        w->port = optarg;
        return -1;
    case 'x':
        w->name = optarg;
        return -1;
    case 'e':
        w->shared = optarg;
        return -1;
    case 't':
        return -1;
    case 'h':
        fputs(nbd_usage, stdout);
        return 0;
    default:
        fputs(nbd_usage, stderr);
        return EXIT_USAGE;
    }
}

static int take_words(struct nbd_words *w, int argc, char **argv)
{
    int letter, status = -1;
    optind = 1;
    while (status < 0 &&
           (letter = getopt_long(argc, argv, "f:rk:b:p:x:e:th", long_words, NULL)) >= 0)
        status = take_word(w, letter);
    if (status >= 0)
        return status;
    bool both = w->socket && (w->bind || w->port);
    if (optind + 1 != argc || both) {
        fputs(nbd_usage, stderr);
        return EXIT_USAGE;
    }
    w->file = argv[optind];
    return -1;
}

/* A value as it stands in key=value,...: commas doubled. For ever. */
static const char *quoted(const char *s)
{
    char *out = malloc(2 * strlen(s) + 1), *p = out;
    if (!out)
        abort();
    for (; *s; s++) {
        *p++ = *s;
        if (*s == ',')
            *p++ = ',';
    }
    *p = 0;
    return out;
}

__attribute__((format(printf, 3, 4))) static void add(char **words, int *n, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&words[(*n)++], fmt, ap) < 0)
        abort();
    va_end(ap);
}

static void add_server(char **words, int *n, const struct nbd_words *w)
{
    const char *max = w->shared ? ",max-connections=" : "", *count = w->shared ? w->shared : "";
    add(words, n, "--nbd-server");
    if (w->socket)
        add(words, n, "addr.type=unix,addr.path=%s%s%s", quoted(w->socket), max, quoted(count));
    else
        add(words, n, "addr.type=inet,addr.host=%s,addr.port=%s%s%s",
            quoted(w->bind ? w->bind : "0.0.0.0"), quoted(w->port ? w->port : "10809"), max,
            quoted(count));
}

int nbd_subcommand(int argc, char **argv, int *argc_out, char ***argv_out)
{
    static char *words[MAX_WORDS + 1];
    struct nbd_words w = {.format = "raw", .name = ""};
    int n = 0, status = take_words(&w, argc, argv);
    if (status >= 0)
        return status;
    const char *ro = w.read_only ? "on" : "off";
    add(words, &n, "--blockdev");
    add(words, &n, "driver=file,node-name=file,filename=%s,read-only=%s,discard=unmap",
        quoted(w.file), ro);
    add(words, &n, "--blockdev");
    add(words, &n, "driver=%s,node-name=volume,file=file,read-only=%s,discard=unmap",
        quoted(w.format), ro);
    add_server(words, &n, &w);
    add(words, &n, "--export");
    add(words, &n, "type=nbd,id=nbd,node-name=volume,name=%s,writable=%s", quoted(w.name),
        w.read_only ? "off" : "on");
    *argc_out = n;
    *argv_out = words;
    return -1;
}
