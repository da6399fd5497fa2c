/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line, and the lines on stderr. Everything read here lives as long as the process. */
#include "bridge.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define MEMORY_MAX (1ull << 40)

struct config config = {.direct = 1024, .timeout = 5000};

static const char help[] =
    "usage: bridge --relay PATH --sibling name=NAME,vhost=PATH,ivshmem=PATH,memory=PATH,size=SIZE\n"
    "              [--sibling ...] [--direct N] [--timeout MS] [--storage-vm -- COMMAND...]\n"
    "\n"
    "Joins guests (siblings) to the storage VM that serves their disks: passes descriptors and\n"
    "messages, never data.\n"
    "\n"
    "  --relay PATH    socket for the storage VM's console port org.strongroom.bridge\n"
    "  --sibling       one guest's disk: its name; the socket of its vhost-user-blk-pci; the socket of\n"
    "                  the storage VM's ivshmem-doorbell device for it; the file that is its\n"
    "                  memory (made if missing) and the size of that (k, M, G)\n"
    "  --direct N      starts of a queue, per sibling, that get an interrupt path of their own;\n"
    "                  later ones go through the bridge (default 1024)\n"
    "  --timeout MS    how long a sibling may wait for an answer of the storage VM (default 5000)\n"
    "  --storage-vm    run the command behind --, and again when it dies\n"
    "  --help, --version\n"
    "\n"
    "A comma inside a value of --sibling is written twice.\n";

void say(const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n++] = '\n';
    char all[sizeof(line) + 8] = "bridge: ";
    memcpy(all + 8, line, (size_t)n);
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&p, 1, 0) != 1 || write(STDERR_FILENO, all, (size_t)n + 8) < 0)
        return; /* who reads too slowly misses lines, and holds up nobody */
}

noreturn void die(const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    say("%s", line);
    exit(1);
}

static unsigned number(const char *option, const char *text, unsigned max)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || v > max)
        die("%s %s: a number from 0 to %u is wanted", option, text, max);
    return (unsigned)v;
}

static uint64_t bytes(const char *value)
{
    static const char units[] = "kMGT";
    char *end;
    errno = 0;
    uint64_t v = strtoull(value, &end, 10);
    const char *unit = *end ? strchr(units, *end == 'K' ? 'k' : *end) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (!isdigit((unsigned char)*value) || errno || (*end && (!unit || end[1])) || v == 0 ||
        v > MEMORY_MAX >> shift)
        die("--sibling size=%s: a size up to 1T is wanted, such as 256M", value);
    return v << shift;
}

static const char *path(const char *option, const char *value)
{
    if (!*value || strlen(value) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        die("%s: the path '%s' is empty or too long for a socket", option, value);
    return value;
}

static void sibling_word(struct sibling_config *s, const char *key, const char *value)
{
    if (strcmp(key, "name") == 0)
        s->name = value;
    else if (strcmp(key, "vhost") == 0)
        s->vhost = path("--sibling vhost=", value);
    else if (strcmp(key, "ivshmem") == 0)
        s->ivshmem = path("--sibling ivshmem=", value);
    else if (strcmp(key, "memory") == 0)
        s->memory = value;
    else if (strcmp(key, "size") == 0)
        s->size = bytes(value);
    else
        die("--sibling: there is no '%s' (name, vhost, ivshmem, memory, size)", key);
}

/* Takes the next key=value off *at, in place: ",," in it becomes ",". */
static char *next_word(char **at)
{
    char *word = *at, *to = word, *from = word;
    if (!*from)
        return NULL;
    for (; *from; *to++ = *from++) {
        if (*from != ',')
            continue;
        if (from[1] != ',')
            break;
        from++;
    }
    *at = *from ? from + 1 : from;
    *to = 0;
    return word;
}

static void check_name(const struct sibling_config *s)
{
    if (!*s->name || strlen(s->name) >= BRIDGE_NAME_BYTES)
        die("--sibling: a name has 1 to %u bytes", BRIDGE_NAME_BYTES - 1);
    for (const char *c = s->name; *c; c++)
        if (!isgraph((unsigned char)*c))
            die("--sibling: a name has no blanks or control characters");
}

static void read_sibling(char *text)
{
    if (config.siblings == BRIDGE_SIBLINGS)
        die("--sibling: %u are the most", BRIDGE_SIBLINGS);
    struct sibling_config *s = &config.sibling[config.siblings];
    for (char *word; (word = next_word(&text));) {
        char *value = strchr(word, '=');
        if (!value)
            die("--sibling: '%s' is no key=value", word);
        *value++ = 0;
        sibling_word(s, word, value);
    }
    if (!s->name || !s->vhost || !s->ivshmem || !s->memory || !s->size)
        die("--sibling: name, vhost, ivshmem, memory and size are all needed");
    check_name(s);
    config.siblings++;
}

/* Memory may be shared: by the disks of one guest. */
static void check_twins(const struct sibling_config *a, const struct sibling_config *b)
{
    if (strcmp(a->name, b->name) == 0)
        die("--sibling: two are named '%s'", a->name);
    if (strcmp(a->vhost, b->vhost) == 0 || strcmp(a->ivshmem, b->ivshmem) == 0)
        die("--sibling: '%s' and '%s' share a path", a->name, b->name);
}

static void check_all(void)
{
    if (!config.relay)
        die("--relay PATH is needed (--help tells more)");
    if (!config.siblings)
        die("--sibling is needed (--help tells more)");
    for (unsigned i = 0; i < config.siblings; i++)
        for (unsigned j = 0; j < i; j++)
            check_twins(&config.sibling[j], &config.sibling[i]);
}

static void tell(const char *text)
{
    fputs(text, stdout);
    exit(fflush(stdout) ? 1 : 0);
}

static void read_option(const char *option, char *value)
{
    if (!value)
        die("%s: a value is needed", option);
    if (strcmp(option, "--relay") == 0)
        config.relay = path(option, value);
    else if (strcmp(option, "--sibling") == 0)
        read_sibling(value);
    else if (strcmp(option, "--direct") == 0)
        config.direct = number(option, value, 60000);
    else if (strcmp(option, "--timeout") == 0)
        config.timeout = number(option, value, 3600000);
    else
        die("%s: there is no such option (--help tells which)", option);
}

void options_read(int argc, char **argv)
{
    bool run = false;
    int i = 1;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0)
            tell(help);
        if (strcmp(argv[i], "--version") == 0)
            tell("strongroom bridge " SR_VERSION "\n");
        if (strcmp(argv[i], "--storage-vm") == 0) {
            run = true;
            continue;
        }
        read_option(argv[i], argv[i + 1]);
        i++;
    }
    if (run != (i < argc) || (run && i + 1 == argc))
        die("--storage-vm is followed by -- and a command, as the last words");
    if (run)
        config.storage_vm = argv + i + 1;
    check_all();
}
