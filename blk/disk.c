/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks: what controller drivers found, in order of discovery, and which node uses which. A disk has
 * one user at most. Its serial number comes from the device: what cannot be printed becomes '?'.
 */
#include "blk/blk.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static struct list disks = LIST_INIT(disks);
static unsigned count;

struct list *disk_list(void)
{
    return &disks;
}

static void make_printable(char *s)
{
    for (; *s; s++)
        if (*s < ' ' || *s > '~')
            *s = '?';
}

void disk_announce(struct disk *d)
{
    char part[24];
    d->index = count++;
    make_printable(d->serial);
    list_append(&disks, &d->link);
    snprintf(part, sizeof(part), "disk %u", d->index);
    char port[16] = "";
    if (d->has_port)
        snprintf(port, sizeof(port), " port %u", d->port);
    log_line(part, "%s %s%s serial %s size %llu block %u ro %d", d->driver, d->address, port,
             d->serial[0] ? d->serial : "-", (unsigned long long)d->size, d->block_size,
             d->read_only);
}

const struct field disk_fields[] = {
    FIELD_OPTS(struct disk_options, serial, "serial", &type_str, "Serial number of the disk"),
    FIELD_OPTS(struct disk_options, pci, "pci", &type_str, "PCI address, BB:DD.F"),
    FIELD_OPT(struct disk_options, index, "index", &type_int, "Number in order of discovery"),
    {0},
};

static bool matches(const struct disk *d, const struct disk_options *o)
{
    if (o->has_port && !(d->has_port && d->port == o->port))
        return false;
    if (o->serial)
        return !strcmp(d->serial, o->serial);
    if (o->pci)
        return !strncmp(d->address, "pci ", 4) && !strcasecmp(d->address + 4, o->pci);
    return !o->has_index || d->index == o->index;
}

/* "serial 'd0'": the option at fault, for sentences. */
static const char *wanted(const struct disk_options *o, char *buf, size_t size)
{
    if (o->serial)
        snprintf(buf, size, "serial '%s'", o->serial);
    else if (o->pci)
        snprintf(buf, size, "pci '%s'", o->pci);
    else if (o->has_index)
        snprintf(buf, size, "index %lld", (long long)o->index);
    else
        snprintf(buf, size, "port %lld", (long long)o->port);
    return buf;
}

static struct disk *find(const char *driver, const struct disk_options *o)
{
    list_for_each (d, &disks, struct disk, link)
        if (!strcmp(d->driver, driver) && matches(d, o))
            return d;
    return NULL;
}

int disk_claim(const char *driver, const struct disk_options *o, struct node *n, struct disk **out,
               struct error *err)
{
    char what[160];
    unsigned said = !!o->serial + !!o->pci + o->has_index;
    if (said != 1 && (said || !o->has_port))
        return error_set(err, SR_EINVAL,
                         "Exactly one of 'serial', 'pci' and 'index' must be given");
    struct disk *d = find(driver, o);
    if (!d)
        return error_set(err, SR_ENODEV, "No %s disk with %s", driver,
                         wanted(o, what, sizeof(what)));
    if (d->user)
        return error_set(err, SR_EBUSY, "Disk with %s is in use by node '%s'",
                         wanted(o, what, sizeof(what)), d->user->name);
    d->user = n;
    *out = d;
    return 0;
}

void disk_release(struct disk *d)
{
    d->user = NULL;
}
