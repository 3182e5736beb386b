"""Where pages are."""

from django.urls import include, path

from chat.pages import conversations, files, usage

urlpatterns = [
    path("", conversations.listing, name="conversations"),
    path("conversations/", conversations.begin, name="begin"),
    path("conversations/sidebar/", conversations.sidebar, name="sidebar"),
    path("conversations/<uuid:pk>/", conversations.conversation, name="conversation"),
    path("conversations/<uuid:pk>/older/", conversations.older, name="older"),
    path("conversations/<uuid:pk>/answers/<uuid:run>/", conversations.answer_text, name="answer"),
    path("conversations/<uuid:pk>/parts/<uuid:message>/<int:number>/", conversations.part_text, name="part"),
    path("conversations/<uuid:pk>/summaries/<uuid:summary>/", conversations.summary_text, name="summary"),
    path("conversations/<uuid:pk>/files/<uuid:file>/", files.file, name="file"),
    path("conversations/<uuid:pk>/files/<uuid:file>/view/", files.view, name="file-view"),
    path("conversations/<uuid:pk>/waiting/<uuid:message>/", conversations.waiting_text, name="waiting"),
    path("conversations/<uuid:pk>/budget/", usage.budget, name="budget"),
    path("usage/", usage.usage, name="usage"),
    path("conversations/<uuid:pk>/people/", conversations.add_person, name="people"),
    path("conversations/<uuid:pk>/people/<int:user>/", conversations.change_person, name="person"),
    path("conversations/<uuid:pk>/people/<int:user>/remove/", conversations.remove_person, name="remove"),
    path("conversations/<uuid:pk>/leave/", conversations.leave, name="leave"),
    path("", include("chat.pages.account_urls")),
]
