/* closes.h - who lets go of a file: a descriptor that a poll can wait for.
 *
 * The kernel drops the record lock of a process that dies, and tells nobody. But it tells of the close of a file, a moment
 * before it drops the locks that go with it. */
#ifndef ASP_CLOSES_H
#define ASP_CLOSES_H

/* A descriptor on which closes are told, as the inotify_event of <sys/inotify.h>: non-blocking, closed on exec. -1 with
 * errno set: ENOSYS where there is no such thing, EMFILE where the user has no more of them
 * (fs.inotify.max_user_instances). */
int asp_closes_open(void);
/* Have it tell of all closes, from now on, of the file that `file` is open on. The number by which it does, always the
 * same for one file; -1 with errno set. */
int asp_closes_watch(int closes, int file);

#endif
