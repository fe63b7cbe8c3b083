//! What any Tocsin process is made of. Nothing is in here that only one program needs.
